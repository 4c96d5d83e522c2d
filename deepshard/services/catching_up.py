"""Being behind, and no longer: what a full node does when peers are ahead of it.

Part of the chain actor, which hands it the messages and ticks that are about this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count

import structlog

from deepshard.disk.chain import ChainStore
from deepshard.net.types import NetworkPort, PeerInfo
from deepshard.services.block_sync import BlockSync
from deepshard.services.executor import ChainExecutor
from deepshard.services.view import ChainView
from deepshard.wire.messages import Blocks, BlocksRequest, Status

_log = structlog.get_logger(__name__)
SyncMessage = Status | BlocksRequest | Blocks
STALL_TICKS = 2
"""Ticks without a decision after which a claim to be above us is a reason to ask for blocks."""


class CatchUp:
    """Decides when to ask peers for what is missing, and when this node is level with the network."""

    def __init__(
        self,
        network: NetworkPort,
        store: ChainStore,
        executor: ChainExecutor,
        view: ChainView,
        *,
        settle: Callable[[tuple[bytes, ...]], None],
        moved: Callable[[], Awaitable[None]],
        go_on_later: Callable[[], None],
    ) -> None:
        """Ask nobody yet.

        Args:
            network: to send through.
            store: what those who ask are served from.
            executor: verifies, executes and stores.
            view: shows whether this node has caught up.
            settle: told the transactions of each block applied.
            moved: called when the height has changed by what peers sent.
            go_on_later: sees to it that `go_on` is called after what waits in the actor's mailbox.
        """
        self._executor = executor
        self._view = view
        self._moved = moved
        self._go_on_later = go_on_later
        self._blocks = BlockSync(network, store, executor, numbers=count(1), settle=settle)

    def forget(self, peer: bytes) -> None:
        """A peer is gone."""
        self._blocks.schedule.forget(peer)

    def note_caught_up(self) -> None:
        """This node knows the present."""
        if not self._view.caught_up:
            self._view.caught_up = True
            self._view.wake()
            _log.info("chain.caught_up", height=self._executor.height)

    async def tick(self, stalled_ticks: int) -> None:
        """Half a second has passed; so many ticks ago the height changed."""
        self._blocks.tick()
        if stalled_ticks < STALL_TICKS:
            return
        if self._is_behind():
            await self._blocks.ask()
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
                    await self._blocks.ask()
                elif not self._is_behind():
                    self.note_caught_up()
            case BlocksRequest():
                await self._blocks.serve(peer.public_key, message)
            case Blocks():
                self._blocks.accept(peer.public_key, message)
                await self.go_on()

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
            await self._blocks.ask()

    def _is_behind(self) -> bool:
        return self._blocks.schedule.is_behind(self._executor.height)
