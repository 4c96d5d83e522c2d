"""The committed chain as other actors see it: an immutable snapshot, and a way to wait for the next.

Role services are level-triggered: they look at the newest state, do what is due, and wait for it to change. Nothing
is lost when a service restarts or skips heights: what is due is read from the state, not from a stream of events.
"""

from __future__ import annotations

from typing import Protocol

import trio

from deepshard.consensus.types import Header
from deepshard.ledger.state import State


class ChainView:
    """The newest committed header and state of a full node."""

    def __init__(self, state: State, header: Header | None) -> None:
        self.state = state
        self.header = header
        self.caught_up = False
        self.handed_over: dict[int, State] = {}
        """States by height that nodes which join may ask for, ascending."""
        self._changed = trio.Event()

    @property
    def height(self) -> int:
        """Height of the newest committed block, 0 at genesis."""
        return 0 if self.header is None else self.header.height

    def keep(self, state: State, height: int, *, count: int) -> None:
        """Hand over this state from now on, and of those before it the newest, `count` in all."""
        kept = {**self.handed_over, height: state}
        self.handed_over = {at: kept[at] for at in sorted(kept)[-count:]}

    def publish(self, state: State, header: Header) -> None:
        """Replace the snapshot and wake all who wait."""
        self.state, self.header = state, header
        self.wake()

    def wake(self) -> None:
        """Let all waiting services look again (also for reasons outside the chain, such as a person's vote)."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    @property
    def next_change(self) -> trio.Event:
        """Set at the next publication; take it before reading the snapshot to lose none."""
        return self._changed

    async def changed(self) -> None:
        """Wait for the next publication."""
        await self._changed.wait()


class ChainAccess(Protocol):
    """What sending a transaction needs, offered by full and by light nodes."""

    async def account_nonce(self, address: bytes) -> int:
        """Next nonce of an account in the newest committed state."""
        ...

    async def submit(self, transaction: bytes) -> None:
        """Hand a transaction to the network.

        Raises:
            InvalidTransaction: this node's state refuses it.
        """
        ...

    async def changed(self) -> None:
        """Wait for the next committed block."""
        ...
