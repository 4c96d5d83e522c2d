"""The light client: follows certified headers and reads the state by Merkle proof.

A light node asks any full peer and trusts none: a header counts when its commit certificate does and other peers show
the same, a record when its proof leads to a certified state root.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog
import trio

from deepshard.actors import Mailbox, Reply
from deepshard.consensus.light import InvalidLightBlock, LightState, trust_genesis
from deepshard.consensus.light_attack import blame, evidence_of
from deepshard.consensus.light_client import LightClientCore
from deepshard.consensus.light_events import (
    AskHeaders,
    Attacked,
    Effect,
    Event,
    Expired,
    HeaderFound,
    HeadersShown,
    HeaderWanted,
    LightAttack,
    Mismatch,
    PeerAt,
    PeerGone,
    Penalise,
    SavedTrust,
    TimePassed,
    Trusted,
    Unwitnessed,
)
from deepshard.consensus.types import Header
from deepshard.encoding import decode, encode
from deepshard.errors import LocalError, RemoteError
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.keys import account_key, chain_key, licence_key, model_key
from deepshard.ledger.params import Genesis
from deepshard.ledger.records import Account, Chain, Licence, ModelVersion
from deepshard.ledger.trie import Proof, verify_proof
from deepshard.net.types import NetworkPort, PeerDown, PeerInfo, PeerUp, Received
from deepshard.primitives import format_address
from deepshard.services.attack_reports import EvidenceKeeper
from deepshard.services.executor import validators_of
from deepshard.wire.messages import (
    Headers,
    HeadersRequest,
    LightAttackReport,
    ProofReply,
    ProofRequest,
    Status,
    Transactions,
)

_log = structlog.get_logger(__name__)
T = TypeVar("T")
QUERY_TIMEOUT_S = 5.0
QUERY_ATTEMPTS = 6
TICK_S = 0.5
PROOF_BYTES_MAX = 32 * 1024
RECORD_BYTES_MAX = 256 * 1024
TRUST_BYTES_MAX = 8 * 1024 * 1024
HEADERS_CACHED_MAX = 256
_TRUST_KEY = "light/trust"


class LightAttackDetected(LocalError):
    """Two headers of one height both follow from what was trusted: some of their signers are faulty."""

    def __init__(self, attack: LightAttack) -> None:
        first, second = attack.first.header, attack.second.header
        super().__init__(
            f"attack on light clients: {first.block_id().hex()} and {second.block_id().hex()} of height "
            f"{first.height} are both signed by enough of the power trusted at height {attack.common_height}. Nothing "
            "above that is trusted until you name a block that you know to be right: --trust HEIGHT:ID"
        )
        self.attack = attack


class TrustKeeper(Protocol):
    """Where trust is kept between two starts: durable and checksummed; `disk.journal.Journal` is one."""

    def put(self, key: str, value: bytes) -> None:
        """Store durably, replacing what was there."""
        ...

    def get(self, key: str) -> bytes | None:
        """What was stored, or None."""
        ...


@dataclass(slots=True)
class _Query:
    """A proof that was asked for; `held` is an answer whose header isn't trusted yet."""

    peer: bytes
    key: bytes
    reply: Reply[tuple[int, bytes | None]]
    held: ProofReply | None = None


class LightClient:
    """Follows the chain without executing it; offers `ChainAccess` and `ChainReader` to wallet and inference."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        network: NetworkPort,
        journal: TrustKeeper,
        now_ms: Callable[[], int],
        trust: tuple[int, bytes] | None = None,
        needs_witness: bool = False,
        heard: Callable[[Effect], None] | None = None,
        evidence: EvidenceKeeper | None = None,
    ) -> None:
        """Go on from what `journal` holds, unless `trust` names a header (height and block id) that it lacks.

        Args:
            genesis: of the network.
            network: peers; full nodes among them are asked.
            journal: keeps what is trusted.
            now_ms: wall clock.
            trust: see above.
            needs_witness: whether a header waits for a second peer that shows it, or is trusted with a warning.
            heard: told every effect of the core after it was performed; what it raises ends `run`.
            evidence: keeps what proves an attack.
        """
        self._genesis = genesis
        self._network = network
        self._journal = journal
        self._now_ms = now_ms
        self._heard = heard
        self._evidence = evidence
        self.mailbox: Mailbox[Received | PeerUp | PeerDown] = Mailbox()
        stored = journal.get(_TRUST_KEY)
        self._core = LightClientCore(
            trust_genesis(genesis.chain_id, genesis.hash(), genesis.time_ms, validators_of(genesis_state(genesis))),
            trusting_period_ms=genesis.params.trusting_period_ms,
            salt=os.urandom(16),
            saved=None if stored is None else decode(stored, SavedTrust, bytes_max=TRUST_BYTES_MAX),
            trust=trust,
            needs_witness=needs_witness,
        )
        self._peer_heights: dict[bytes, int] = {}
        self._queries: dict[int, _Query] = {}
        self._headers: dict[int, Header] = {}
        self._wanted: dict[int, Reply[Header]] = {}
        self._request = 0
        self._changed = trio.Event()
        if self.trusted.header is not None:
            self._headers[self.height] = self.trusted.header
        if self._core.attack is not None:
            self._keep_evidence(self._core.attack)  # where power was lost between trust and evidence

    def check(self) -> None:
        """Check at the start that there is something to go on from.

        Raises:
            LightAttackDetected: before this start; no header was named since.
            TrustExpired: what is trusted is too old, and no header was named.
        """
        if self._core.attack is not None:
            raise LightAttackDetected(self._core.attack)
        self._core.check_trust(self._now_ms())

    @property
    def trusted(self) -> LightState:
        """What is trusted now; genesis before the first header."""
        return self._core.trusted

    @property
    def height(self) -> int:
        """Height of the newest trusted header."""
        return self._core.trusted.height

    @property
    def is_waiting_for_root(self) -> bool:
        """Whether the header that a person named hasn't come yet; `trusted` is genesis until then."""
        return self._core.is_waiting_for_root

    @property
    def attack(self) -> LightAttack | None:
        """The attack that ended trust, if there was one."""
        return self._core.attack

    @property
    def unwitnessed(self) -> bool:
        """Whether no second peer has shown the newest header."""
        return self._core.unwitnessed

    @property
    def primary(self) -> bytes | None:
        """Public key of the peer whose headers are followed."""
        return self._core.primary

    @property
    def witnesses(self) -> list[bytes]:
        """Public keys of the peers that they are compared with."""
        return self._core.witnesses(trio.current_time())

    # -- as seen by other services -----------------------------------------------------------------------------------

    async def changed(self) -> None:
        """Wait for the next verified header."""
        await self._changed.wait()

    async def submit(self, transaction: bytes) -> None:
        """Send a transaction to all full peers; whether it is valid shows in the state."""
        if not self._network.broadcast(Transactions((transaction,))):
            raise LocalError("no peer is connected, so the transaction could not be sent")

    async def account_nonce(self, address: bytes) -> int:
        """Next nonce of an account."""
        return (await self.account(address)).nonce

    async def account(self, address: bytes) -> Account:
        """An account, proven; an empty one if proven absent."""
        return await self.record(account_key(address), Account) or Account()

    async def licence(self, address: bytes) -> Licence | None:
        """Licence of an account, proven."""
        return await self.record(licence_key(address), Licence)

    async def current_model(self) -> ModelVersion:
        """Newest accepted weights, proven; its manifest is the one in the certified header."""
        chain = await self.record(chain_key(), Chain)
        model = None if chain is None else await self.record(model_key(chain.version), ModelVersion)
        if model is None:
            raise LocalError("the chain has no weights recorded")
        return model

    async def record(self, key: bytes, kind: type[T]) -> T | None:
        """A record of the newest certified state, proven present or absent; see `proven`."""
        return (await self.proven(key, kind))[1]

    async def proven(self, key: bytes, kind: type[T]) -> tuple[int, T | None]:
        """A record and the height of the certified state that it is proven in; None if proven absent.

        Raises:
            LightAttackDetected: nothing is trusted any more.
            LocalError: no peer answered with a valid proof in time.
        """
        for attempt in range(QUERY_ATTEMPTS):
            if self._core.attack is not None:
                raise LightAttackDetected(self._core.attack)
            peers = sorted(self._peer_heights, key=lambda peer: (-self._peer_heights[peer], peer))
            if not peers:
                with trio.move_on_after(QUERY_TIMEOUT_S):
                    await self.changed()
                continue
            peer = peers[attempt % len(peers)]
            self._request += 1
            request = self._request
            query = self._queries[request] = _Query(peer, key, Reply())
            try:
                await self._network.send(peer, ProofRequest(request, key))
                height, value = await query.reply.get(QUERY_TIMEOUT_S)
            except LocalError as error:
                _log.debug("light.no_proof", attempt=attempt, error=str(error))
                with trio.move_on_after(1.0):
                    await self.changed()
                continue
            finally:
                self._queries.pop(request, None)
            return height, None if value is None else decode(value, kind, bytes_max=RECORD_BYTES_MAX)
        raise LocalError(f"no peer proved {key[:16]!r} in {QUERY_ATTEMPTS} attempts: are validators reachable?")

    async def header(self, height: int) -> Header:
        """The certified header of any height from 1 up to the newest trusted one.

        Raises:
            LocalError: it isn't within reach, or no peer showed it in time.
        """
        if height in self._headers:
            return self._headers[height]
        if not 1 <= height < self.height:
            raise LocalError(f"no header of height {height} is trusted, the newest is {self.height}")
        reply = self._wanted.get(height)
        if reply is None:
            reply = self._wanted[height] = Reply()
            await self._apply(HeaderWanted(height))
        return await reply.get(QUERY_ATTEMPTS * QUERY_TIMEOUT_S)

    # -- the actor ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the chain until cancelled.

        Raises:
            TrustExpired: what is trusted has become too old to go on from.
        """
        while True:
            event: Received | PeerUp | PeerDown | None = None
            with trio.move_on_after(TICK_S):
                event = await self.mailbox.get()
            try:
                await self._handle(event)
            except RemoteError as error:
                assert isinstance(event, Received)
                self._network.penalise(event.peer.public_key, error)

    async def _handle(self, event: Received | PeerUp | PeerDown | None) -> None:
        """Take one event; consensus gossip, which reaches a light client only by mistake, is not looked at."""
        match event:
            case None:
                await self._apply(TimePassed())
            case PeerUp(peer=peer) if self._core.attack is not None:
                await self._network.send(peer.public_key, _report(self._core.attack))
            case PeerDown(peer=peer):
                self._peer_heights.pop(peer.public_key, None)
                await self._apply(PeerGone(peer.public_key))
            case Received(peer=peer, message=Status(height=height)):
                self._peer_heights[peer.public_key] = height
                await self._apply(PeerAt(peer.public_key, height))
            case Received(peer=peer, message=Headers() as reply):
                await self._apply(HeadersShown(peer.public_key, reply.request, reply.headers))
            case Received(peer=peer, message=ProofReply() as reply):
                await self._take_proof(peer, reply)
            case _:
                pass

    async def _apply(self, event: Event) -> None:
        effects = self._core.apply(event, now=trio.current_time(), now_ms=self._now_ms())
        for effect in effects:
            await self._perform(effect)
            if self._heard is not None:
                self._heard(effect)

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case AskHeaders(peer=peer, request=request, from_height=first, count=count):
                await self._network.send(peer, HeadersRequest(request, first, count))
            case Penalise(peer=peer, error=error):
                self._network.penalise(peer, error)
            case Trusted(headers=headers):
                self._journal.put(_TRUST_KEY, encode(self._core.saved()))
                self._learn(headers)
            case HeaderFound(height=height, header=header):
                reply = self._wanted.pop(height, None)
                if header is not None:
                    self._learn((header,))
                    if reply is not None:
                        reply.set(header)
                elif reply is not None:
                    reply.fail(LocalError(f"no header of height {height} is within reach"))
            case Attacked(attack=attack, witness=witness):
                self._journal.put(_TRUST_KEY, encode(self._core.saved()))
                self._headers = {h: header for h, header in self._headers.items() if h <= attack.common_height}
                self._keep_evidence(attack, witness=witness.hex())
                self._network.broadcast(_report(attack))
                self._wake()
            case Unwitnessed(height=height):
                _log.warning("light.unwitnessed", height=height)
            case Mismatch(peer=peer, error=error):
                _log.warning("light.other_header", peer=peer.hex(), error=str(error))
            case Expired(error=error):
                raise error

    def _keep_evidence(self, attack: LightAttack, **facts: object) -> None:
        place = None if self._evidence is None else self._evidence.save(evidence_of(attack))
        _log.error("light.attack", evidence=None if place is None else str(place), **facts, **_facts(attack))

    def _learn(self, headers: tuple[Header, ...]) -> None:
        """Keep headers that are trusted now, and look at proofs that waited for one."""
        self._headers |= {header.height: header for header in headers}
        for height in sorted(self._headers)[:-HEADERS_CACHED_MAX]:
            del self._headers[height]
        for query in list(self._queries.values()):
            if query.held is not None and query.held.height in self._headers and not query.reply.done:
                try:
                    self._settle(query, query.held)
                except RemoteError as error:
                    self._network.penalise(query.peer, error)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _take_proof(self, peer: PeerInfo, reply: ProofReply) -> None:
        """Check a proof against the certified root of its height; it waits for a header that isn't here yet."""
        query = self._queries.get(reply.request)
        if query is None or query.peer != peer.public_key or query.reply.done or query.held is not None:
            return
        if reply.height < self.height - 64:
            raise InvalidLightBlock(f"a proof of height {reply.height} came, the chain is at {self.height}")
        if reply.height in self._headers or reply.height == 0:
            self._settle(query, reply)
            return
        query.held = reply
        if reply.height < self.height and reply.height not in self._wanted:
            await self._apply(HeaderWanted(reply.height))
        elif reply.height > self.height and peer.public_key in self._peer_heights:
            self._peer_heights[peer.public_key] = max(reply.height, self._peer_heights[peer.public_key])
            await self._apply(PeerAt(peer.public_key, self._peer_heights[peer.public_key]))

    def _settle(self, query: _Query, reply: ProofReply) -> None:
        root = self._headers[reply.height].state_root if reply.height else genesis_state(self._genesis).root
        verify_proof(root, query.key, reply.value, decode(reply.proof, Proof, bytes_max=PROOF_BYTES_MAX))
        query.reply.set((reply.height, reply.value))


def _facts(attack: LightAttack) -> dict[str, object]:
    """An attack as a line of the log says it."""
    first, second = attack.first.header, attack.second.header
    return {
        "height": first.height,
        "first": first.block_id().hex(),
        "second": second.block_id().hex(),
        "common_height": attack.common_height,
        "common": attack.common_id.hex(),
        "convicted": [format_address(one) for one in blame(evidence_of(attack), attack.chain_id).convicted],
    }


def _report(attack: LightAttack) -> LightAttackReport:
    """An attack as peers are told of it."""
    return LightAttackReport(attack.common_height, attack.common_id, encode(evidence_of(attack)))
