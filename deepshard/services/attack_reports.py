"""Takes reports of light attacks: checks them against this node's own chain, keeps the evidence, and passes them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from deepshard.actors import Mailbox
from deepshard.consensus.forensics import Accusation, ConflictingCommits, decode_accusation
from deepshard.consensus.light import (
    InsufficientTrust,
    LightBlock,
    LightState,
    TrustExpired,
    trust_genesis,
    trusted_state,
)
from deepshard.consensus.light_attack import Blame, judge
from deepshard.consensus.types import Block, CommitCertificate
from deepshard.consensus.validators import ValidatorSet
from deepshard.disk.chain import ChainStore
from deepshard.encoding import decode
from deepshard.errors import RemoteError
from deepshard.evidence import InvalidEvidence
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.params import Genesis
from deepshard.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX, VALIDATOR_SET_BYTES_MAX
from deepshard.net.types import NetworkPort, Received
from deepshard.primitives import format_address, tagged_hash
from deepshard.services.executor import validators_of
from deepshard.wire.messages import LightAttackReport

_log = structlog.get_logger(__name__)
REPORTS_REMEMBERED_MAX = 256


class EvidenceKeeper(Protocol):
    """Where evidence is kept; `disk.evidence.EvidenceFolder` is one."""

    def save(self, accusation: Accusation) -> object:
        """Keep a piece durably; where, or None if there is no more room."""
        ...


class AttackReports:
    """A whole node's ear for attacks on light clients."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        store: ChainStore,
        network: NetworkPort,
        evidence: EvidenceKeeper,
        now_ms: Callable[[], int],
    ) -> None:
        self._genesis = genesis
        self._store = store
        self._network = network
        self._evidence = evidence
        self._trusting_period_ms = genesis.params.trusting_period_ms
        self._now_ms = now_ms
        self._seen: set[bytes] = set()
        self.mailbox: Mailbox[Received] = Mailbox()

    async def run(self) -> None:
        """Take reports until cancelled."""
        while True:
            event = await self.mailbox.get()
            if not isinstance(event.message, LightAttackReport):
                continue
            try:
                self._take(event.peer.public_key, event.message)
            except RemoteError as error:
                self._network.penalise(event.peer.public_key, error)

    def _take(self, peer: bytes, report: LightAttackReport) -> None:
        """Judge a report.

        Raises:
            RemoteError: it is no evidence. One that this node can't judge is nobody's fault.
        """
        digest = tagged_hash("attack report", report.evidence)
        if digest in self._seen or len(self._seen) >= REPORTS_REMEMBERED_MAX:
            return
        accusation = decode_accusation(report.evidence)
        if not isinstance(accusation, ConflictingCommits):
            raise InvalidEvidence(f"a report of a light attack holds {type(accusation).__name__}")
        common = self._own(report.common_height)
        if common is None or common.block_id != report.common_id:
            _log.info("attack.not_judged", peer=peer.hex(), common_height=report.common_height)
            return
        try:
            blame = judge(accusation, common, now_ms=self._now_ms(), trusting_period_ms=self._trusting_period_ms)
        except (InsufficientTrust, TrustExpired) as error:
            _log.info("attack.not_judged", peer=peer.hex(), reason=str(error))
            return
        self._seen.add(digest)
        place = self._evidence.save(accusation)
        _log.error("attack.reported", peer=peer.hex(), evidence=str(place), **self._facts(accusation, blame))
        self._network.broadcast(report, exclude={peer})

    def _own(self, height: int) -> LightState | None:
        """What this node's chain has at a height."""
        if height == 0:
            genesis = self._genesis
            validators = validators_of(genesis_state(genesis))
            return trust_genesis(genesis.chain_id, genesis.hash(), genesis.time_ms, validators)
        stored = self._store.block(height)
        if stored is None:
            return None
        block = LightBlock(
            decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header,
            decode(stored.certificate, CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX),
            decode(stored.validators, ValidatorSet, bytes_max=VALIDATOR_SET_BYTES_MAX),
        )
        return trusted_state(self._genesis.chain_id, block)

    def _facts(self, accusation: ConflictingCommits, blame: Blame) -> dict[str, object]:
        """Which header is false, by this node's own chain, and who signed it."""
        height = accusation.first.header.height
        own = self._own(height)
        ids = [one.header.block_id() for one in (accusation.first, accusation.second)]
        false = [
            {"block_id": block_id.hex(), "signers": [format_address(address) for address in signers]}
            for block_id, signers in zip(ids, blame.signers, strict=True)
            if own is not None and block_id != own.block_id
        ]
        return {
            "height": height,
            "block_ids": [block_id.hex() for block_id in ids],
            "convicted": [format_address(address) for address in blame.convicted],
            "false": false,
        }
