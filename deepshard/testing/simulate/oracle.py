"""What must hold in every run, judged from outside: from what honest nodes sign, publish and find on their disks.

The first violation ends the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final

from deepshard.ballots import PROPOSAL_TAG, VOTE_TAG, Proposal, Vote, VoteKind
from deepshard.consensus.forensics import culprits, evidence_in
from deepshard.consensus.types import Header, LockProof
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import decode, encode
from deepshard.errors import BadSignature, RemoteError
from deepshard.evidence import offence_of, verify_evidence
from deepshard.identity import verify_signature
from deepshard.ledger.state import State
from deepshard.limits import LOCK_PROOF_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST
from deepshard.services.executor import validators_of
from deepshard.testing.simulate.log import EventLog
from deepshard.wire.messages import BlockProposal, Message, ProofOfLock, Votes

CHAIN_ID: Final = "simulated"


class Oracle:
    """Keeps what honest nodes have said and done.

    Attributes:
        violation: the first broken promise, or None.
        blocks: block id by height, as first decided.
        finality_s: for each honest node and height, virtual seconds from the proposal to the decision.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        honest: frozenset[bytes],
        keys: Mapping[bytes, bytes],
        beyond: bool,
        genesis: State,
        stop: Callable[[], None],
    ) -> None:
        self.violation: str | None = None
        self._forked_at: int | None = None
        self.blocks: dict[int, bytes] = {}
        self.finality_s: list[float] = []
        self.votes: dict[bytes, Vote | None] = {}
        """Every signed vote that reached or left an honest node, by its encoding; None for what isn't one."""
        self.proposals: dict[bytes, Proposal | None] = {}
        self._keys = keys
        self._log, self._honest, self._beyond, self._stop = log, honest, beyond, stop
        self._sets: dict[int, ValidatorSet] = {1: validators_of(genesis)}
        self._states: dict[tuple[int, bytes], bytes] = {}
        self._signed: dict[tuple[bytes, int, int, int], tuple[bytes, int]] = {}
        self._precommits: defaultdict[tuple[bytes, int], dict[int, bytes]] = defaultdict(dict)
        self._proposed_at: dict[bytes, float] = {}
        self._tallies: defaultdict[tuple[int, int, bytes], set[bytes]] = defaultdict(set)
        self._tips: dict[str, tuple[int, bytes]] = {}
        self._trusted: dict[int, bytes] = {}
        self._convicted: defaultdict[bytes, set[int]] = defaultdict(set)
        """Epochs in which a validator was convicted."""

    @property
    def forked(self) -> bool:
        """Whether honest nodes decided conflicting blocks, which more than a third of the power can cause."""
        return self._forked_at is not None

    def fail(self, violation: str) -> None:
        """A promise is broken."""
        if self.violation is None:
            self.violation = violation
            self._log.add("VIOLATION", "-", promise=violation)
            self._stop()

    # -- decisions ----------------------------------------------------------------------------------------------------

    def decided(self, node: str, header: Header, state: State, now: float) -> None:
        """An honest node has published a block."""
        height, block_id = header.height, header.block_id()
        first = self.blocks.setdefault(height, block_id)
        self._log.add("decided", node, height=height, block=block_id.hex()[:16], state=state.root.hex()[:16])
        if first != block_id:
            self._forked_at = height if self._forked_at is None else min(height, self._forked_at)
            self._log.seen["forked"] += 1
            if not self._beyond:
                self.fail(f"height {height}: {node} decided {block_id.hex()[:16]}, others {first.hex()[:16]}")
            return
        if self._trusted.get(height, block_id) != block_id and not self._beyond:
            self.fail(f"{node} decided {block_id.hex()[:16]} at height {height}, a light client trusts another")
        tip = self._tips.get(node, (0, b""))
        if height < tip[0] or (height == tip[0] and block_id != tip[1]):
            self.fail(f"{node} had decided height {tip[0]} and is back at height {height}")
        self._tips[node] = height, block_id
        proposed = self._proposed_at.get(block_id)
        if proposed is not None and height > tip[0]:
            self.finality_s.append(now - proposed)
        if (height, state.root) in self._states:
            return
        self._states[height, state.root] = block_id
        if state.root != header.state_root:
            self.fail(f"{node} has state root {state.root.hex()[:16]} at height {height}, its header another")
        supply, money = state.supply(), state.money()
        if money != supply.genesis + supply.minted - supply.burned:
            self.fail(f"height {height}: accounts, bonds and treasury hold {money}, the supply is {supply}")
        self._sets.setdefault(height + 1, validators_of(state))
        self._check_convictions(height, state)

    def _check_convictions(self, height: int, state: State) -> None:
        """Nobody honest is convicted, and nobody twice in an epoch (on one branch of a fork)."""
        epoch_blocks = state.params().epoch_blocks
        for address, conviction in state.convictions():
            if address in self._honest:
                self.fail(f"height {height}: the honest {address.hex()[:16]} is convicted of {conviction.kind}")
            if conviction.height != height:
                continue
            self._log.seen[f"convicted.{conviction.kind}"] += 1
            self._log.add("convicted", "-", kind=conviction.kind, validator=address.hex()[:16], height=height)
            epochs = self._convicted[address]
            if height // epoch_blocks in epochs and not self.forked:
                self.fail(f"height {height}: {address.hex()[:16]} is convicted twice in an epoch")
            epochs.add(height // epoch_blocks)

    def restarted(self, node: str, height: int) -> None:
        """An honest node comes back with a chain of this height."""
        before = self._tips.get(node, (0, b""))[0]
        if height < before:
            self.fail(f"{node} had decided height {before}, its disk has {height} after a restart")

    def emptied(self, node: str) -> None:
        """A node lost its chain to a fault that says so: it may begin again."""
        self._tips.pop(node, None)

    def trusted(self, node: str, height: int, block_id: bytes) -> None:
        """A light client trusts a header."""
        self._log.seen["light.trusted"] += 1
        decided = self.blocks.get(height)
        # A light client may hear of a decision before any honest node has made it.
        if decided is not None and decided != block_id and not self._beyond:
            self.fail(f"{node} trusts {block_id.hex()[:16]} at height {height}, decided is {decided.hex()[:16]}")
        self._trusted.setdefault(height, block_id)

    # -- signatures ---------------------------------------------------------------------------------------------------

    def vote_of(self, encoded: bytes) -> Vote | None:
        """A vote by its encoding, decoded once."""
        if encoded not in self.votes:
            try:
                vote = decode(encoded, Vote, bytes_max=512)
                self._verify(VOTE_TAG, vote.validator, vote.sign_bytes(CHAIN_ID), vote.signature)
            except RemoteError:
                self.votes[encoded] = None
                return None
            self.votes[encoded] = vote
            if vote.kind is VoteKind.PREVOTE:
                self._tallies[vote.height, vote.round, vote.block_id].add(vote.validator)
        return self.votes[encoded]

    def _verify(self, tag: str, address: bytes, payload: bytes, signature: bytes) -> None:
        key = self._keys.get(address)
        if key is None:
            raise BadSignature(f"{address.hex()} is nobody here")
        verify_signature(key, tag, payload, signature)

    def heard(self, message: Message) -> None:
        """Something has reached an honest node."""
        match message:
            case Votes(votes=votes):
                for encoded in votes:
                    self.vote_of(encoded)
            case ProofOfLock(proof=encoded):
                for vote in self._votes_in(encoded):
                    self.vote_of(encode(vote))
            case BlockProposal(proposal=encoded) if encoded not in self.proposals:
                try:
                    proposal = decode(encoded, Proposal, bytes_max=512)
                    self._verify(PROPOSAL_TAG, proposal.proposer, proposal.sign_bytes(CHAIN_ID), proposal.signature)
                except RemoteError:
                    self.proposals[encoded] = None
                else:
                    self.proposals[encoded] = proposal

    def _votes_in(self, encoded: bytes) -> tuple[Vote, ...]:
        try:
            return decode(encoded, LockProof, bytes_max=LOCK_PROOF_BYTES_MAX).unpacked()
        except RemoteError:
            return ()

    def left(self, node: str, address: bytes, message: Message, now: float) -> None:
        """Something leaves an honest node: none of its signatures may contradict another, nor its lock."""
        match message:
            case Votes(votes=votes):
                for encoded in votes:
                    vote = self.vote_of(encoded)
                    if vote is not None and vote.validator == address:
                        self._check_vote(node, vote)
            case BlockProposal(proposal=encoded):
                self.heard(message)
                proposal = self.proposals[encoded]
                if proposal is not None:
                    self._proposed_at.setdefault(proposal.block_id, now)
                    if proposal.proposer == address:
                        signed = (proposal.block_id, proposal.valid_round)
                        self._check_signed(node, address, proposal.height, proposal.round, 0, signed)

    def _check_signed(
        self, node: str, address: bytes, height: int, round_: int, step: int, signed: tuple[bytes, int]
    ) -> bool:
        """Whether it is new."""
        place = (address, height, round_, step)
        before = self._signed.setdefault(place, signed)
        if before != signed:
            what = ("proposals", "prevotes", "precommits")[step]
            self.fail(
                f"honest {node} signed two {what} at height {height}, round {round_}: "
                f"{before[0].hex()[:16]} (valid round {before[1]}) and {signed[0].hex()[:16]} (valid round {signed[1]})"
            )
        return before is signed

    def _check_vote(self, node: str, vote: Vote) -> None:
        signed = (vote.block_id, getattr(vote, "valid_round", -1))
        if not self._check_signed(node, vote.validator, vote.height, vote.round, int(vote.kind), signed):
            return
        if vote.block_id == ZERO_DIGEST:
            return
        precommits = self._precommits[vote.validator, vote.height]
        if vote.kind is VoteKind.PRECOMMIT:
            precommits[vote.round] = vote.block_id
            return
        locked = max((round_ for round_ in precommits if round_ < vote.round), default=None)
        if locked is None or precommits[locked] == vote.block_id:
            return
        if not any(self._has_quorum(vote.height, round_, vote.block_id) for round_ in range(locked, vote.round)):
            self.fail(
                f"honest {node} precommitted {precommits[locked].hex()[:16]} in round {locked} of height {vote.height} "
                f"and prevoted {vote.block_id.hex()[:16]} in round {vote.round} without a proof-of-lock"
            )

    def _has_quorum(self, height: int, round_: int, block_id: bytes) -> bool:
        validators = self._sets.get(height)
        if validators is None:
            return True
        power = sum(map(validators.power_of, sorted(self._tallies[height, round_, block_id])))
        return 3 * power > 2 * validators.total_power

    # -- blame --------------------------------------------------------------------------------------------------------

    def accused(self, node: str, validator: bytes) -> None:
        """A node found evidence against a validator."""
        if validator in self._honest:
            self.fail(f"{node} has evidence against the honest {validator.hex()[:16]}")

    def check_blame(self) -> None:
        """What honest nodes heard accuses no honest one; where it forked, it convicts a third of the power."""
        for height in sorted({vote.height for vote in self.votes.values() if vote is not None}):
            validators = self._sets.get(height)
            if validators is None:
                continue
            keys = {one.address: one.public_key for one in validators.validators}
            evidence = evidence_in(self._votes_at(height), keys)
            for one in evidence:
                verify_evidence(one, CHAIN_ID)
                self._log.seen[f"evidence.{offence_of(one).kind}"] += 1
            faulty = culprits(evidence)
            if faulty & self._honest:
                self.fail(f"height {height}: signatures convict an honest validator")
            if height == self._forked_at:
                power = sum(map(validators.power_of, sorted(faulty)))
                self._log.add("blamed", "-", validators=len(faulty), power=power, of=validators.total_power)
                self._log.seen["blamed"] += 1
                if 3 * power <= validators.total_power:
                    self.fail(f"a fork at height {height}, but {power} of {validators.total_power} are convicted only")

    def _votes_at(self, height: int) -> list[Vote]:
        return [vote for vote in self.votes.values() if vote is not None and vote.height == height]
