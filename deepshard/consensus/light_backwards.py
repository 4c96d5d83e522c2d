"""Headers below a trusted one: each is proven by the parent id of the next (specification, 10.5/9)."""

from __future__ import annotations

from collections.abc import Sequence

from deepshard.consensus.light import InvalidLightBlock
from deepshard.consensus.light_events import HeaderFound
from deepshard.consensus.types import Header
from deepshard.limits import LIGHT_BACKWARD_HEADERS_MAX, SYNC_BLOCKS_MAX


class Descent:
    """The way from a trusted header down to one that somebody wants."""

    def __init__(self, child: Header, height: int) -> None:
        assert 1 <= height < child.height
        self.height = height
        self._child = child
        self._reach = SYNC_BLOCKS_MAX

    @property
    def done(self) -> bool:
        """Whether the wanted header is proven."""
        return self._child.height == self.height

    @property
    def too_far(self) -> bool:
        """Whether more headers lie between than this client looks at."""
        return self._child.height - self.height > LIGHT_BACKWARD_HEADERS_MAX

    def wanted(self) -> tuple[int, int]:
        """First height and number of the headers to ask for next."""
        first = max(self.height, self._child.height - self._reach)
        return first, self._child.height - first

    def take(self, headers: Sequence[Header]) -> bool:
        """Go down as far as the headers lead. Whether they led anywhere.

        An answer holds as many headers as fit, the lowest of what was asked for: where that isn't enough to reach up to
        the proven one, fewer are asked for next time.

        Raises:
            InvalidLightBlock: one isn't the parent of the next.
        """
        first, count = self.wanted()
        by_height = {header.height: header for header in headers if first <= header.height < first + count}
        moved = False
        while not self.done and (parent := by_height.get(self._child.height - 1)) is not None:
            if parent.block_id() != self._child.parent_id:
                raise InvalidLightBlock(f"header {parent.height} is not the parent of the trusted one above it")
            self._child = parent
            moved = True
        if not moved and 0 < len(by_height) < count:
            self._reach = len(by_height)
            return True
        return moved

    def found(self) -> HeaderFound:
        """The wanted header."""
        assert self.done
        return HeaderFound(self.height, self._child)
