"""Catching up block by block: asks several peers, applies what comes in order, and serves those who ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import structlog
import trio

from deepshard.disk.chain import ChainStore
from deepshard.errors import RemoteError
from deepshard.limits import BODY_BYTES_MAX, SYNC_BLOCKS_MAX
from deepshard.net.types import NetworkPort, PeerInfo
from deepshard.services.block_schedule import BlockSchedule
from deepshard.services.executor import ChainExecutor
from deepshard.wire.messages import Blocks, BlocksRequest

_log = structlog.get_logger(__name__)


class BlockSync:
    """The shell of `BlockSchedule`: sends its requests and lets the executor judge what comes."""

    def __init__(
        self,
        network: NetworkPort,
        store: ChainStore,
        executor: ChainExecutor,
        *,
        numbers: Iterator[int],
        settle: Callable[[tuple[bytes, ...]], None],
    ) -> None:
        """Ask nobody yet.

        Args:
            network: to send through.
            store: what those who ask are served from.
            executor: verifies, executes and stores blocks.
            numbers: fresh request numbers.
            settle: told the transactions of each block applied.
        """
        self.schedule = BlockSchedule(numbers)
        self._network = network
        self._store = store
        self._executor = executor
        self._settle = settle

    def tick(self) -> None:
        """Time passes; slow peers are passed over."""
        for peer in self.schedule.tick(trio.current_time()):
            _log.info("sync.slow_peer", peer=peer.hex())

    async def ask(self) -> None:
        """Send what requests there are to send."""
        for wanted in self.schedule.wanted(self._executor.height, trio.current_time()):
            request = BlocksRequest(wanted.request, wanted.first, wanted.count)
            if not await self._network.send(wanted.peer, request):
                self.schedule.forget(wanted.peer)

    def accept(self, peer: bytes, answer: Blocks) -> None:
        """Keep what a peer has sent.

        Raises:
            RemoteError: it is no answer.
        """
        self.schedule.accept(peer, answer, self._executor.height)

    def apply(self) -> bytes | None:
        """Apply blocks that are next, up to `SYNC_BLOCKS_MAX`; who sent the last one, or None if there was none.

        The sender of a false block is penalised: it need not be the one whose answer came last.
        """
        sender = None
        for _ in range(SYNC_BLOCKS_MAX):
            arrived = self.schedule.take(self._executor.height)
            if arrived is None:
                break
            try:
                block = self._executor.apply_synced(arrived.block, arrived.certificate)
            except RemoteError as error:
                self.schedule.blame(arrived.peer)
                self._network.penalise(arrived.peer, error)
                break
            self._settle(block.transactions)
            sender = arrived.peer
        return sender

    async def serve(self, peer: bytes, request: BlocksRequest) -> None:
        """Answer with as many stored blocks as fit half a message body, at least one if there is one."""
        blocks: list[tuple[bytes, bytes]] = []
        size = 0
        # No block has height 0, so an answer from there has no first one.
        for stored in self._store.blocks(request.from_height, request.count) if request.from_height else ():
            size += len(stored.block) + len(stored.certificate)
            if blocks and size > BODY_BYTES_MAX // 2:
                break
            blocks.append((stored.block, stored.certificate))
        await self._network.send(peer, Blocks(request.request, tuple(blocks)))


def follows_chain(peer: PeerInfo) -> bool:
    """Whether a peer takes part in consensus gossip; a light client only asks."""
    return any(role != "inference" for role in peer.roles)
