"""What waits to be sent on one link, in order of priority, with bounds on frames and bytes."""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from deepshard.limits import BULK_QUEUE_BYTES_MAX, KIB, OUTBOUND_QUEUE_BYTES_MAX, OUTBOUND_QUEUE_FRAMES_MAX
from deepshard.wire.frames import Payload
from deepshard.wire.messages import Priority

BATCH_BYTES_MAX: Final = 64 * KIB
BATCH_FRAMES_MAX: Final = 32
"""Frames sealed together and given to the socket in one call; signing one takes some 30 us."""


class Outbox:
    """Queued payloads of one link: consensus leaves before gossip, gossip before bulk, each in order of arrival."""

    def __init__(self) -> None:
        self._queues: dict[Priority, deque[Payload]] = {priority: deque() for priority in Priority}
        self._bytes = dict.fromkeys(Priority, 0)
        self._filled = trio.lowlevel.ParkingLot()
        self._drained = trio.lowlevel.ParkingLot()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the link is gone."""
        return self._closed

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def offer(self, payload: Payload) -> bool:
        """Queue without waiting; False if there is no room or the link is gone."""
        if self._closed or not self._has_room(payload):
            return False
        self._queues[payload.priority].append(payload)
        self._bytes[payload.priority] += payload.size_bytes
        self._filled.unpark()
        return True

    async def put(self, payload: Payload) -> bool:
        """Queue, waiting for room; False if the link went away meanwhile."""
        await trio.lowlevel.checkpoint()
        while not self.offer(payload):
            if self._closed:
                return False
            await self._drained.park()
        return True

    async def take(self) -> list[Payload]:
        """The next payloads to send, waiting for one: either one that is bulk, or a batch of small ones that aren't."""
        while not len(self):
            await self._filled.park()
        batch: list[Payload] = []
        size = 0
        for priority in Priority:
            queue = self._queues[priority]
            while queue and (not batch or _fits(priority, len(batch), size + queue[0].size_bytes)):
                payload = queue.popleft()
                size += payload.size_bytes
                self._bytes[priority] -= payload.size_bytes
                batch.append(payload)
        self._drained.unpark_all()
        return batch

    def close(self) -> None:
        """Refuse everything from now on and wake who waits for room."""
        self._closed = True
        self._drained.unpark_all()

    def _has_room(self, payload: Payload) -> bool:
        """A single payload always fits into an empty queue, whatever its size."""
        if payload.priority is Priority.BULK:
            frames, size, limit = len(self._queues[Priority.BULK]), self._bytes[Priority.BULK], BULK_QUEUE_BYTES_MAX
        else:
            frames = len(self) - len(self._queues[Priority.BULK])
            size = self._bytes[Priority.CONSENSUS] + self._bytes[Priority.GOSSIP]
            limit = OUTBOUND_QUEUE_BYTES_MAX
        return frames == 0 or (frames < OUTBOUND_QUEUE_FRAMES_MAX and size + payload.size_bytes <= limit)


def _fits(priority: Priority, frames: int, size: int) -> bool:
    return priority is not Priority.BULK and frames < BATCH_FRAMES_MAX and size <= BATCH_BYTES_MAX
