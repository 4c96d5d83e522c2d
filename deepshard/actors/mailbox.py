"""A bounded mailbox, and the slot an answer comes back in."""

from __future__ import annotations

from typing import Generic, TypeVar

import trio

from deepshard.errors import LocalError
from deepshard.limits import MAILBOX_MESSAGES_MAX

T = TypeVar("T")


class Mailbox(Generic[T]):
    """First in, first out, at most `capacity` waiting messages.

    `put` waits for room, which passes back-pressure to whoever produces; `offer` never waits and says whether there was
    room, for producers that must not wait on a slow reader and may drop.
    """

    def __init__(self, capacity: int = MAILBOX_MESSAGES_MAX) -> None:
        self._send, self._receive = trio.open_memory_channel[T](capacity)

    async def put(self, message: T) -> None:
        """Append, waiting for room."""
        await self._send.send(message)

    def offer(self, message: T) -> bool:
        """Append if there is room; False if the message was dropped."""
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            return False
        return True

    async def get(self) -> T:
        """Take the oldest message, waiting for one."""
        return await self._receive.receive()

    def __len__(self) -> int:
        return self._receive.statistics().current_buffer_used


class Reply(Generic[T]):
    """One answer to one question, or the error that came instead."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._value: T | None = None
        self._error: Exception | None = None

    def set(self, value: T) -> None:
        """Answer. A second answer is our bug."""
        assert not self._event.is_set()
        self._value = value
        self._event.set()

    def fail(self, error: Exception) -> None:
        """Answer with an error, raised where `get` waits."""
        assert not self._event.is_set()
        self._error = error
        self._event.set()

    @property
    def done(self) -> bool:
        """Whether an answer came."""
        return self._event.is_set()

    async def get(self, timeout_s: float | None = None) -> T:
        """Wait for the answer.

        Raises:
            LocalError: none came within `timeout_s`.
        """
        with trio.move_on_after(timeout_s if timeout_s is not None else float("inf")):
            await self._event.wait()
        if not self._event.is_set():
            raise LocalError(f"no answer within {timeout_s} s")
        if self._error is not None:
            raise self._error
        value: T = self._value  # type: ignore[assignment]  # None is a value where T allows it
        return value
