"""The trusted light blocks that a client keeps: where its trust began, and the newest ones."""

from __future__ import annotations

from dataclasses import dataclass

from deepshard.consensus.light import LightBlock, LightState, trusted_state
from deepshard.limits import LIGHT_BLOCKS_MAX


@dataclass(frozen=True, slots=True)
class Point:
    """Something trusted, with its certificate; genesis has none."""

    state: LightState
    block: LightBlock | None

    @property
    def height(self) -> int:
        """Its height."""
        return self.state.height


class Trail:
    """Points of ascending height: the first is where trust began, of the others the newest `LIGHT_BLOCKS_MAX` stay."""

    def __init__(self, root: Point) -> None:
        self.points = [root]

    @property
    def root(self) -> Point:
        """Where trust began."""
        return self.points[0]

    @property
    def newest(self) -> LightState:
        """What is verified from."""
        return self.points[-1].state

    @property
    def blocks(self) -> tuple[LightBlock, ...]:
        """The light blocks after the root, to be stored."""
        return tuple(point.block for point in self.points[1:] if point.block is not None)

    def add(self, block: LightBlock) -> None:
        """Trust a light block that was verified from the newest one."""
        self.points.append(Point(trusted_state(self.newest.chain_id, block), block))
        del self.points[1:-LIGHT_BLOCKS_MAX]

    def roll_back(self, height: int) -> None:
        """Trust nothing above `height`, which isn't below the root's."""
        self.points = [point for point in self.points if point.height <= height]

    def above(self, height: int) -> Point | None:
        """The lowest point above `height`."""
        return next((point for point in self.points if point.height > height), None)
