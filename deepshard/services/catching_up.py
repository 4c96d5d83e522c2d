"""Being behind, and no longer: what a full node does when peers are ahead of it.

Part of the chain actor, which hands it the messages and ticks that are about this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count

import msgspec
import structlog
import trio

from deepshard.consensus.light import LightState, trust_genesis
from deepshard.disk.chain import ChainStore, StoredBlock
from deepshard.encoding import encode
from deepshard.errors import RemoteError
from deepshard.ledger.params import Genesis
from deepshard.ledger.state import State
from deepshard.ledger.trie_chunks import assemble
from deepshard.net.types import NetworkPort, PeerInfo
from deepshard.services.block_sync import BlockSync, follows_chain
from deepshard.services.executor import ChainExecutor
from deepshard.services.snapshot_join import SnapshotJoin
from deepshard.services.view import ChainView
from deepshard.wire.messages import Blocks, BlocksRequest, Headers, SnapshotChunk, Snapshots, Status

_log = structlog.get_logger(__name__)
SyncMessage = Status | BlocksRequest | Blocks | Headers | Snapshots | SnapshotChunk
STALL_TICKS = 2
"""Ticks without a decision after which a claim to be above us is a reason to ask for blocks."""
SNAPSHOT_GAP_BLOCKS = 200
"""A node that is further behind joins by a snapshot, if it can."""
JOIN_PAUSE_S = 60.0
"""Between an attempt to join by a snapshot that failed, and the next."""


class SnapshotPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a node joins by a snapshot, and what it trusts.

    Attributes:
        gap_blocks: how far behind it has to be; 0 for never.
        named: height and id of a block that a person vouches for, where genesis is too old.
        trusting_period_ms: how old what is trusted may be, where that isn't what genesis says.
    """

    gap_blocks: int = SNAPSHOT_GAP_BLOCKS
    named: tuple[int, bytes] | None = None
    trusting_period_ms: int | None = None


class CatchUp:
    """Decides when to ask peers for what is missing, and when this node is level with the network."""

    def __init__(
        self,
        genesis: Genesis,
        network: NetworkPort,
        store: ChainStore,
        executor: ChainExecutor,
        view: ChainView,
        *,
        policy: SnapshotPolicy,
        now_ms: Callable[[], int],
        settle: Callable[[tuple[bytes, ...]], None],
        moved: Callable[[], Awaitable[None]],
        go_on_later: Callable[[], None],
    ) -> None:
        """Ask nobody yet.

        Args:
            genesis: what is trusted first.
            network: to send through.
            store: what those who ask are served from.
            executor: verifies, executes and stores.
            view: shows whether this node has caught up.
            policy: when to join by a snapshot.
            now_ms: the wall clock, which trust expires by.
            settle: told the transactions of each block applied.
            moved: called when the height has changed by what peers sent.
            go_on_later: sees to it that `go_on` is called after what waits in the actor's mailbox.
        """
        self._genesis = genesis
        self._network = network
        self._store = store
        self._executor = executor
        self._view = view
        self._policy = policy
        self._now_ms = now_ms
        self._settle = settle
        self._moved = moved
        self._go_on_later = go_on_later
        self._numbers = count(1)
        self._genesis_validators = executor.validators
        self._blocks = BlockSync(network, store, executor, numbers=self._numbers, settle=settle)
        self._join: SnapshotJoin | None = None
        self._join_again_at = 0.0
        self._resumed: bytes | None = None

    def forget(self, peer: bytes) -> None:
        """A peer is gone."""
        self._blocks.schedule.forget(peer)
        if self._join is not None:
            self._join.forget(peer)

    def note_caught_up(self) -> None:
        """This node knows the present."""
        if not self._view.caught_up:
            self._view.caught_up = True
            self._view.wake()
            _log.info("chain.caught_up", height=self._executor.height)

    async def tick(self, stalled_ticks: int) -> None:
        """Half a second has passed; so many ticks ago the height changed."""
        self._blocks.tick()
        if self._join is not None:
            for peer in self._join.tick(trio.current_time()):
                _log.info("join.slow_peer", peer=peer.hex())
        if self._join is None and stalled_ticks < STALL_TICKS:
            return
        if self._is_behind() or self._join is not None:
            await self._ask()
        else:
            self.note_caught_up()

    async def take(self, peer: PeerInfo, message: SyncMessage) -> None:
        """Take a peer's message.

        Raises:
            RemoteError: it isn't what it should be.
        """
        match message:
            case Status(height=height):
                self._blocks.schedule.note(peer.public_key, height)
                if self._executor.height + 1 < height:
                    await self._ask()
                elif not self._is_behind():
                    self.note_caught_up()
            case BlocksRequest():
                await self._blocks.serve(peer.public_key, message)
            case Blocks() if not self._take_base(peer, message):
                self._blocks.accept(peer.public_key, message)
                await self.go_on()
            case Blocks() | Headers() | Snapshots() | SnapshotChunk():
                await self._take_part(peer, message)

    async def go_on(self) -> None:
        """Apply blocks that wait for their turn, some at a time, and ask for more."""
        sender = self._blocks.apply()
        if sender is not None:
            _log.info("chain.synced", height=self._executor.height, peer=sender.hex())
            await self._moved()
            if self._blocks.schedule.is_level_with(sender, self._executor.height):
                self.note_caught_up()  # with a peer that proved its blocks; others may only boast
            self._go_on_later()
        if self._is_behind():
            await self._ask()

    async def _ask(self) -> None:
        """Ask for blocks, or where they are too many, for a state that comes after most of them."""
        now, gap = trio.current_time(), self._policy.gap_blocks
        missing = self._blocks.schedule.highest() - self._executor.height
        if self._join is None and gap and missing > gap and now >= self._join_again_at:
            self._join = self._new_join()
            _log.info("join.began", height=self._executor.height, missing=missing)
        if self._join is None:
            await self._blocks.ask()
        else:
            await self._drive(self._join)

    # -- joining by a snapshot ---------------------------------------------------------------------------------------

    def _new_join(self) -> SnapshotJoin:
        self._resumed = None
        named = self._policy.named
        return SnapshotJoin(
            self._trusted(),
            above=self._executor.height + self._policy.gap_blocks,
            numbers=self._numbers,
            trusting_period_ms=self._policy.trusting_period_ms or self._genesis.params.trusting_period_ms,
            named=None if named is None or named[0] <= self._executor.height else named,
            resumable=self._store.part_heights(),
        )

    def _trusted(self) -> LightState:
        """Our own tip, or genesis."""
        tip, header = self._executor.tip, self._executor.header
        if header is not None:
            return LightState(
                header.chain_id,
                header.height,
                header.block_id(),
                header.time_ms,
                tip.validators,
                header.next_validators_hash,
                header,
            )
        genesis = self._genesis
        return trust_genesis(genesis.chain_id, genesis.hash(), genesis.time_ms, self._genesis_validators)

    def _take_base(self, peer: PeerInfo, message: Blocks) -> bool:
        join = self._join
        return join is not None and join.take_block(peer.public_key, message, now=trio.current_time())

    async def _take_part(self, peer: PeerInfo, message: Blocks | Headers | Snapshots | SnapshotChunk) -> None:
        join, key, now = self._join, peer.public_key, trio.current_time()
        if join is None:
            return  # an answer that comes after the question was dropped
        try:
            match message:
                case Snapshots():
                    join.take_offers(key, message)
                case Headers():
                    join.take_headers(key, message, now=now, now_ms=self._now_ms())
                case SnapshotChunk():
                    kept = join.take_chunk(key, message, now=now)
                    if kept is not None and join.root is not None and join.height is not None:
                        self._store.save_part(join.height, join.root, kept.first, kept.data)
        except RemoteError as error:
            self._network.penalise(key, error)
        await self._drive(join)

    async def _drive(self, join: SnapshotJoin) -> None:
        now = trio.current_time()
        if join.root is not None and join.root != self._resumed:
            self._resumed = join.root
            taken = join.resume(self._store.parts(join.root), now=now)
            _log.info("join.verified", height=join.height, state_root=join.root.hex(), chunks_on_disk=taken)
        if join.joined is not None:
            await self._install(join)
            return
        peers = [peer.public_key for peer in self._network.peers() if follows_chain(peer)]
        for peer, request in join.wanted(now, peers):
            if not await self._network.send(peer, request):
                join.forget(peer)
        if join.failure is not None:
            _log.warning("join.failed", reason=join.failure)
            self._join, self._join_again_at = None, now + JOIN_PAUSE_S
            await self._blocks.ask()

    async def _install(self, join: SnapshotJoin) -> None:
        joined, self._join = join.joined, None
        assert joined is not None
        light = joined.light
        if light.header.height > self._executor.height:
            stored = StoredBlock(light.header.height, joined.block, encode(light.certificate), encode(light.validators))
            self._executor.install(stored, State(assemble(joined.chunks)))
            _log.info("join.installed", height=light.header.height, chunks=len(joined.chunks))
            self._settle(())
            await self._moved()
        if self._is_behind():
            await self._ask()

    def _is_behind(self) -> bool:
        return self._blocks.schedule.is_behind(self._executor.height)
