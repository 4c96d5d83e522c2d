"""Builds with a planted bug, which the ordinary run set has to find: what shows that it would find a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

from deepshard.consensus import core
from deepshard.consensus.validators import ValidatorSet
from deepshard.disk.guard import GuardRecord, SigningGuard
from deepshard.errors import UsageError


@contextmanager
def _accepts_at_one_third() -> Iterator[None]:
    """A quorum is more than a third of the power instead of more than two thirds."""
    with patch.object(ValidatorSet, "is_quorum", ValidatorSet.has_honest):
        yield


@contextmanager
def _forgets_its_lock() -> Iterator[None]:
    """Whatever is proposed is prevoted, locked or not (lines 23 and 29 of arXiv 1807.04938)."""
    with patch.object(core, "_lock_allows", lambda *_: True):
        yield


@contextmanager
def _skips_the_guard_write() -> Iterator[None]:
    """What is signed is remembered in memory only."""
    write = SigningGuard._write  # noqa: SLF001

    def forget(guard: SigningGuard, record: GuardRecord) -> None:
        if record.signed:
            guard._record = record  # noqa: SLF001
        else:
            write(guard, record)

    with patch.object(SigningGuard, "_write", forget):
        yield


CANARIES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "one-third": _accepts_at_one_third,
    "forgotten-lock": _forgets_its_lock,
    "unwritten-guard": _skips_the_guard_write,
}


@contextmanager
def planted(canary: str | None) -> Iterator[None]:
    """Run what is inside with a planted bug, or without for None.

    Raises:
        UsageError: no such canary.
    """
    if canary is None:
        yield
        return
    if canary not in CANARIES:
        raise UsageError(f"no canary {canary!r}: there are {', '.join(CANARIES)}")
    with CANARIES[canary]():
        yield
