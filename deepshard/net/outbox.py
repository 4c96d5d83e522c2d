"""The way into a link's send queue: who queues bulk waits for room, who queues anything else is refused."""

from __future__ import annotations

import trio

from deepshard.wire.frames import Payload
from deepshard.wire.sending import SendQueue


class Outbox:
    """The send queue of one link as tasks see it. `changed` wakes the writer, `drained` those who wait for room."""

    def __init__(self, queue: SendQueue) -> None:
        self._queue = queue
        self._writer = trio.lowlevel.ParkingLot()
        self._waiting = trio.lowlevel.ParkingLot()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the link is gone."""
        return self._closed

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, payload: Payload) -> bool:
        """Queue without waiting; False if there is no room or the link is gone."""
        if self._closed or not self._queue.has_room(payload):
            return False
        self._queue.add(payload)
        self._writer.unpark()
        return True

    async def put(self, payload: Payload) -> bool:
        """Queue, waiting for room; False if the link went away meanwhile."""
        await trio.lowlevel.checkpoint()
        while not self.offer(payload):
            if self._closed:
                return False
            await self._waiting.park()
        return True

    async def wait(self) -> None:
        """Sleep until there may be something to send."""
        await self._writer.park()

    def changed(self) -> None:
        """There may be something to send: a payload, a control packet, credit."""
        self._writer.unpark()

    def drained(self) -> None:
        """Something was sent: there may be room."""
        self._waiting.unpark_all()

    def close(self) -> None:
        """Refuse everything from now on and wake who waits for room."""
        self._closed = True
        self._waiting.unpark_all()
