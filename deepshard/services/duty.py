"""The loop all role services share: look at the state, do what is due, wait for the state to change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from deepshard.errors import LocalError, RemoteError, UsageError
from deepshard.services.view import ChainView

_log = structlog.get_logger(__name__)


async def attend(name: str, view: ChainView, step: Callable[[], Awaitable[bool]]) -> None:
    """Call `step` whenever the chain moves, again at once while it says that it did something.

    A duty that fails because of a peer, the disk or the compute worker is logged and tried again at the next block: its
    deadline is on chain, and giving up before it would turn a hiccup into a slash.
    """
    while True:
        change = view.next_change
        worked = False
        if view.caught_up:
            try:
                worked = await step()
            except (RemoteError, LocalError, UsageError) as error:
                _log.warning("duty.failed", duty=name, height=view.height, error=str(error), kind=type(error).__name__)
        if not worked:
            await change.wait()
