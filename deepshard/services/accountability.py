"""Accountability: evidence that this node has come to hold, kept until the ledger has settled it, and its reports.

One conviction covers an epoch (`ledger.accountability`), so one piece of evidence is kept for each validator and epoch:
nobody can fill the journal by contradicting itself more often.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import structlog

from deepshard.consensus.events import Equivocation, LockForgotten, ProposalEquivocation
from deepshard.consensus.forensics import Accusation, ConflictingCommits, decode_accusation, verify_conflicting_commits
from deepshard.consensus.validators import ValidatorSet
from deepshard.disk.journal import Journal
from deepshard.encoding import decode, encode
from deepshard.errors import LocalError, RemoteError, UsageError
from deepshard.evidence import (
    Amnesia,
    Evidence,
    Offence,
    duplicate_proposal,
    duplicate_vote,
    offence_of,
    verify_evidence,
)
from deepshard.ledger.accountability import check_punishable, evidence_id, evidence_window
from deepshard.ledger.faults import EvidenceOutOfTime
from deepshard.ledger.state import State
from deepshard.ledger.transactions import ReportEvidence
from deepshard.primitives import tagged_hash
from deepshard.services.attack_reports import EvidenceKeeper
from deepshard.services.duty import attend
from deepshard.services.view import ChainView
from deepshard.services.wallet import Wallet

_log = structlog.get_logger(__name__)
HELD: Final = "accountability/held"
HELD_BYTES_MAX: Final = 1 << 24
REPORT_SPACING_BLOCKS: Final = 2
"""A validator reports so many blocks after the one before it in the order, if nobody has by then."""
Contradiction = Equivocation | ProposalEquivocation | LockForgotten


@dataclass(frozen=True, slots=True)
class Held:
    """Evidence that isn't settled, and the height that this node had reached when it came to hold it."""

    evidence: Evidence
    offence: Offence
    since_height: int


class EvidenceLocker:
    """Evidence by validator and epoch, durable where there is a journal, and in files where there is a place for them.

    Files are for people, and stay when the evidence is settled.
    """

    def __init__(self, view: ChainView, journal: Journal | None = None, *, files: EvidenceKeeper | None = None) -> None:
        """Take up what the journal holds.

        Raises:
            LocalError: the journal holds something else.
        """
        self._view = view
        self._journal = journal
        self._files = files
        self._held: dict[tuple[bytes, int], Held] = {}
        stored = None if journal is None else journal.get(HELD)
        if stored is None:
            return
        try:
            pieces = decode(stored, tuple[Evidence, ...], bytes_max=HELD_BYTES_MAX)
        except RemoteError as error:
            raise LocalError(f"the journal's evidence can't be read: {error}") from error
        for evidence in pieces:
            self._put(evidence)

    def __iter__(self) -> Iterator[Held]:
        return iter(tuple(self._held.values()))

    def note(self, found: Contradiction, validators: ValidatorSet) -> None:
        """Log what consensus found at the height being decided, by these validators, and keep it as evidence."""
        match found:
            case Equivocation(vote_a, vote_b):
                accused = vote_a.validator
                _log.error("consensus.equivocation", validator=accused.hex(), height=vote_a.height)
            case ProposalEquivocation(proposal_a, proposal_b):
                accused = proposal_a.proposer
                _log.error("consensus.equivocation", validator=accused.hex(), height=proposal_a.height)
            case LockForgotten(precommit, prevote):
                accused = prevote.validator
                _log.error("consensus.amnesia", validator=accused.hex(), height=prevote.height)
        member = validators.by_address.get(accused)
        if member is None:
            return  # these validators are of a later height already: others hold the evidence, too
        match found:
            case Equivocation():
                self.keep(duplicate_vote(member.public_key, vote_a, vote_b))
            case ProposalEquivocation():
                self.keep(duplicate_proposal(member.public_key, proposal_a, proposal_b))
            case LockForgotten():
                self.keep(Amnesia(member.public_key, precommit, prevote))

    def keep(self, evidence: Evidence) -> None:
        """Keep verified evidence, unless it is settled or there is some of its validator and epoch."""
        offence = offence_of(evidence)
        if self._place(offence) in self._held or is_settled(self._view.state, offence):
            return
        self._put(evidence)
        self._write()
        if self._files is not None:
            self._files.save(evidence)
        _log.warning(
            "evidence.held",
            kind=offence.kind,
            validator=offence.validator.hex(),
            height=offence.height,
            round=offence.round,
            evidence=evidence_id(evidence).hex(),
        )

    def tidy(self) -> None:
        """Forget what the newest state has settled."""
        settled = [place for place, one in self._held.items() if is_settled(self._view.state, one.offence)]
        for place in settled:
            del self._held[place]
        if settled:
            self._write()

    def _put(self, evidence: Evidence) -> None:
        offence = offence_of(evidence)
        self._held[self._place(offence)] = Held(evidence, offence, self._view.height)

    def _place(self, offence: Offence) -> tuple[bytes, int]:
        return offence.validator, offence.height // self._view.state.params().epoch_blocks

    def _write(self) -> None:
        if self._journal is not None:
            self._journal.put(HELD, encode(tuple(one.evidence for one in self._held.values())))


class Accusations:
    """Keeps what accuses several at once as a file, and evidence against each whom it convicts for the ledger."""

    def __init__(self, chain_id: str, files: EvidenceKeeper, locker: EvidenceLocker) -> None:
        self._chain_id = chain_id
        self._files = files
        self._locker = locker

    def save(self, accusation: Accusation) -> object:
        """Keep it durably; where, or None if there is no more room.

        Raises:
            RemoteError: two decisions that aren't.
        """
        pieces = _pieces(accusation, self._chain_id)
        place = self._files.save(accusation)
        for piece in pieces:
            self._locker.keep(piece)
        return place


def _pieces(accusation: Accusation, chain_id: str) -> tuple[Evidence, ...]:
    if isinstance(accusation, ConflictingCommits):
        return verify_conflicting_commits(accusation, chain_id)
    verify_evidence(accusation, chain_id)
    return (accusation,)


def convicting(file: bytes, chain_id: str) -> tuple[Evidence, ...]:
    """Evidence against each that a file of evidence convicts.

    Raises:
        RemoteError: it isn't a file of evidence, or proves nothing.
    """
    return _pieces(decode_accusation(file), chain_id)


def is_settled(state: State, offence: Offence) -> bool:
    """Whether a report can change nothing any more: it is punished, too old, or not a validator's."""
    height = state.chain().height + 1
    try:
        check_punishable(state, offence.validator, offence.height, height)
    except EvidenceOutOfTime as error:
        return offence.height < error.first
    except RemoteError:
        return True
    return False


def report_order(state: State, evidence: Evidence) -> list[bytes]:
    """Who reports a piece of evidence, in this order: the active validators but the accused, shuffled by its id."""
    accused, identifier = offence_of(evidence).validator, evidence_id(evidence)
    others = [address for address, _, _ in state.active_validators() if address != accused]
    return sorted(others, key=lambda address: tagged_hash("report order", identifier, address))


class Reporter:
    """A validator's duty: sees to it that evidence which it holds comes on chain, by itself or by others."""

    def __init__(self, *, view: ChainView, wallet: Wallet, locker: EvidenceLocker) -> None:
        self._view = view
        self._wallet = wallet
        self._locker = locker
        self._convictions: dict[bytes, int] | None = None
        """Convictions of each validator so far."""

    async def run(self) -> None:
        """Report for as long as the node runs."""
        await attend("accountability", self._view, self._step)

    async def _step(self) -> bool:
        self._locker.tidy()
        self._tell()
        for one in self._locker:
            if self._is_due(one) and await self._report(one):
                return True
        return False

    def _tell(self) -> None:
        """Log who was convicted since the last look."""
        convictions = self._view.state.convictions()
        if self._convictions is not None:
            for address, conviction in convictions:
                if conviction.count > self._convictions.get(address, 0):
                    _log.warning(
                        "validator.convicted",
                        validator=address.hex(),
                        kind=conviction.kind,
                        offence_height=conviction.offence_height,
                        height=conviction.height,
                        jailed_until=conviction.jailed_until,
                    )
        self._convictions = {address: conviction.count for address, conviction in convictions}

    def _is_due(self, one: Held) -> bool:
        """Whether it is our turn. Nobody accuses itself: who sees its own key sign elsewhere has another problem."""
        order = report_order(self._view.state, one.evidence)
        if self._wallet.address not in order:
            return False
        height, patience = self._view.height, evidence_window(self._view.state.params()) // 2
        if height >= one.offence.height + patience:
            return True  # whoever was to report it hasn't, and soon it is too old
        turn = order.index(self._wallet.address) * REPORT_SPACING_BLOCKS
        return height >= max(one.since_height, one.offence.height - 1) + turn

    async def _report(self, one: Held) -> bool:
        try:
            await self._wallet.send(ReportEvidence(one.evidence))
        except UsageError as error:
            _log.info("evidence.not_reported", kind=one.offence.kind, height=one.offence.height, error=str(error))
            return False
        _log.warning(
            "evidence.reported",
            kind=one.offence.kind,
            validator=one.offence.validator.hex(),
            height=one.offence.height,
        )
        return True
