"""The light client: follows certified headers and reads the state by Merkle proof; and the full node's other half.

A light node asks any full peer and trusts none: a header counts when its commit certificate does, a record when its
proof leads to a certified state root.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import structlog
import trio

from deepshard.actors import Mailbox, Reply
from deepshard.consensus.light import (
    InsufficientTrust,
    InvalidLightBlock,
    LightState,
    decode_light_block,
    trust_genesis,
    verify_sequential,
    verify_skipping,
)
from deepshard.consensus.types import Block
from deepshard.disk.chain import ChainStore
from deepshard.disk.journal import Journal
from deepshard.encoding import decode, encode
from deepshard.errors import LocalError, RemoteError
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.keys import account_key, chain_key, licence_key, model_key
from deepshard.ledger.params import Genesis
from deepshard.ledger.records import Account, Chain, Licence, ModelVersion
from deepshard.ledger.trie import Proof, verify_proof
from deepshard.limits import BLOCK_BYTES_MAX, BODY_BYTES_MAX, PEERS_REMEMBERED_MAX, SYNC_BLOCKS_MAX
from deepshard.net.types import NetworkPort, PeerDown, PeerInfo, PeerUp, Received
from deepshard.services.executor import validators_of
from deepshard.services.view import ChainView
from deepshard.wire.messages import Headers, HeadersRequest, ProofReply, ProofRequest, Status, Transactions

_log = structlog.get_logger(__name__)
T = TypeVar("T")
TRUSTING_PERIOD_MS = 7 * 24 * 3600 * 1000
QUERY_TIMEOUT_S = 5.0
QUERY_ATTEMPTS = 6
PROOF_BYTES_MAX = 32 * 1024
RECORD_BYTES_MAX = 256 * 1024
_TRUST_KEY = "light/trusted"


class LightServer:
    """Answers light clients from a full node's store and newest state."""

    def __init__(self, *, view: ChainView, store: ChainStore, network: NetworkPort) -> None:
        self._view = view
        self._store = store
        self._network = network
        self.mailbox: Mailbox[Received] = Mailbox()

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            event = await self.mailbox.get()
            match event.message:
                case HeadersRequest():
                    await self._headers(event.peer, event.message)
                case ProofRequest(request=request, key=key):
                    state, height = self._view.state, self._view.height
                    reply = ProofReply(request, height, state.get(key), encode(state.prove(key)))
                    await self._network.send(event.peer.public_key, reply)
                case _:
                    error = RemoteError(f"{type(event.message).__name__} is not a light client's request")
                    self._network.penalise(event.peer.public_key, error)

    async def _headers(self, peer: PeerInfo, request: HeadersRequest) -> None:
        headers: list[tuple[bytes, bytes, bytes]] = []
        size = 0
        for height in range(max(1, request.from_height), request.from_height + request.count):
            stored = self._store.block(height)
            if stored is None:
                break
            header = encode(decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header)
            light = (header, stored.certificate, stored.validators)
            size += sum(map(len, light))
            if headers and size > BODY_BYTES_MAX // 2:
                break
            headers.append(light)
        await self._network.send(peer.public_key, Headers(request.request, tuple(headers)))


class LightClient:
    """Follows the chain without executing it; offers `ChainAccess` and `ChainReader` to wallet and inference."""

    def __init__(self, *, genesis: Genesis, network: NetworkPort, journal: Journal, now_ms: Callable[[], int]) -> None:
        self._genesis = genesis
        self._network = network
        self._journal = journal
        self._now_ms = now_ms
        self.mailbox: Mailbox[Received | PeerUp | PeerDown] = Mailbox()
        self.trusted: LightState = self._restore()
        self._peer_heights: dict[bytes, int] = {}
        self._asked: dict[int, tuple[bytes, float]] = {}
        self._disappointments: Counter[bytes] = Counter()
        self._proofs: dict[int, tuple[bytes, bytes, Reply[tuple[int, bytes | None]]]] = {}
        self._roots: dict[int, bytes] = {}
        self._request = 0
        self._changed = trio.Event()

    def _restore(self) -> LightState:
        stored = self._journal.get(_TRUST_KEY)
        if stored is not None:
            trusted = decode(stored, LightState, bytes_max=1 << 20)
            if trusted.chain_id == self._genesis.chain_id:
                return trusted
        validators = validators_of(genesis_state(self._genesis))
        return trust_genesis(self._genesis.chain_id, self._genesis.hash(), self._genesis.time_ms, validators)

    @property
    def height(self) -> int:
        """Height of the newest verified header."""
        return self.trusted.height

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
        """A record of the newest certified state, proven present or absent.

        Raises:
            LocalError: no peer answered with a valid proof in time.
        """
        for attempt in range(QUERY_ATTEMPTS):
            peers = sorted(self._peer_heights, key=lambda peer: (-self._peer_heights[peer], peer))
            if not peers:
                with trio.move_on_after(QUERY_TIMEOUT_S):
                    await self.changed()
                continue
            peer = peers[attempt % len(peers)]
            self._request += 1
            request, reply = self._request, Reply[tuple[int, bytes | None]]()
            self._proofs[request] = (peer, key, reply)
            try:
                await self._network.send(peer, ProofRequest(request, key))
                _, value = await reply.get(QUERY_TIMEOUT_S)
            except LocalError as error:
                _log.debug("light.no_proof", attempt=attempt, error=str(error))
                with trio.move_on_after(1.0):
                    await self.changed()
                continue
            finally:
                self._proofs.pop(request, None)
            return None if value is None else decode(value, kind, bytes_max=RECORD_BYTES_MAX)
        raise LocalError(f"no peer proved {key[:16]!r} in {QUERY_ATTEMPTS} attempts: are validators reachable?")

    # -- the actor ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the chain until cancelled."""
        while True:
            event: Received | PeerUp | PeerDown | None = None
            with trio.move_on_after(1.0):
                event = await self.mailbox.get()
            try:
                await self._handle(event)
            except RemoteError as error:
                assert isinstance(event, Received)
                self._network.penalise(event.peer.public_key, error)
            await self._ask_headers()

    async def _handle(self, event: Received | PeerUp | PeerDown | None) -> None:
        """Take one event; consensus gossip, which reaches a light client only by mistake, is not looked at."""
        match event:
            case PeerUp(peer=peer):
                self._peer_heights.setdefault(peer.public_key, 0)
            case PeerDown(peer=peer):
                self._peer_heights.pop(peer.public_key, None)
            case Received(peer=peer, message=Status(height=height)):
                self._peer_heights[peer.public_key] = height
            case Received(peer=peer, message=Headers() as reply):
                asked = self._asked.get(reply.request)
                if asked is not None and asked[0] == peer.public_key:
                    del self._asked[reply.request]
                    if not self._take_headers(reply):
                        self._disappoint(peer.public_key)
            case Received(peer=peer, message=ProofReply() as reply):
                await self._take_proof(peer, reply)

    async def _ask_headers(self) -> None:
        """Ask one peer at a time; who claims a height and shows nothing for it is asked after the others."""
        now = trio.current_time()
        for number, (peer, asked_at) in list(self._asked.items()):
            if asked_at <= now - QUERY_TIMEOUT_S:
                del self._asked[number]
                self._disappoint(peer)
        ahead = [peer for peer, height in self._peer_heights.items() if height > self.height]
        if not ahead or self._asked:
            return
        peer = min(ahead, key=lambda key: (self._disappointments[key], -self._peer_heights[key], key))
        self._request += 1
        self._asked[self._request] = (peer, now)
        await self._network.send(peer, HeadersRequest(self._request, self.height + 1, SYNC_BLOCKS_MAX))

    def _disappoint(self, peer: bytes) -> None:
        if len(self._disappointments) > PEERS_REMEMBERED_MAX:
            self._disappointments.clear()
        self._disappointments[peer] += 1

    def _take_headers(self, reply: Headers) -> bool:
        """Skip to the last header where the trusted validators still vouch for it, else go one by one.

        Whether there was anything new.
        """
        blocks = [decode_light_block(*parts) for parts in reply.headers]
        blocks = [block for block in blocks if block.header.height > self.height]
        if not blocks:
            return False
        try:
            self._trust(
                verify_skipping(self.trusted, blocks[-1], now_ms=self._now_ms(), trusting_period_ms=TRUSTING_PERIOD_MS)
            )
        except InsufficientTrust:
            for block in blocks:
                self._trust(
                    verify_sequential(self.trusted, block, now_ms=self._now_ms(), trusting_period_ms=TRUSTING_PERIOD_MS)
                )
        # State roots of skipped heights are kept too, as far as their hashes chain to the certified header.
        child = self.trusted.header
        for block in reversed(blocks[:-1]):
            if child is None or block.header.block_id() != child.parent_id:
                break
            self._roots[block.header.height] = block.header.state_root
            child = block.header
        return True

    def _trust(self, trusted: LightState) -> None:
        self.trusted = trusted
        if trusted.header is not None:
            self._roots[trusted.height] = trusted.header.state_root
        for height in [height for height in self._roots if height < trusted.height - 256]:
            del self._roots[height]
        self._journal.put(_TRUST_KEY, encode(trusted))
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _take_proof(self, peer: PeerInfo, reply: ProofReply) -> None:
        """Check a proof against the certified root of its height, fetching the header first where it is newer."""
        waiting = self._proofs.get(reply.request)
        if waiting is None or waiting[0] != peer.public_key or waiting[2].done:
            return
        root = self._roots.get(reply.height)
        if root is None and reply.height == 0:
            root = genesis_state(self._genesis).root
        if root is None:
            self._peer_heights[peer.public_key] = max(reply.height, self._peer_heights.get(peer.public_key, 0))
            waiting[2].fail(LocalError("the proof is of a height whose header is not here yet"))
            return
        proof = decode(reply.proof, Proof, bytes_max=PROOF_BYTES_MAX)
        if reply.height < self.height - 64:
            raise InvalidLightBlock(f"a proof of height {reply.height} came, the chain is at {self.height}")
        verify_proof(root, waiting[1], reply.value, proof)
        waiting[2].set((reply.height, reply.value))
