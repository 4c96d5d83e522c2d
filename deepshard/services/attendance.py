"""Who takes part: validators that sign, by the commit certificates of the chain."""

from __future__ import annotations

from collections.abc import Callable, Collection

from deepshard.limits import AWAY_BLOCKS


class Attendance:
    """When each validator was last among the signers of a block.

    A certificate closes with a quorum, so that a slow validator is missing in many; one that is missing in
    `window_blocks` in a row is away.
    """

    def __init__(self, signers: Callable[[int], Collection[bytes]], *, window_blocks: int = AWAY_BLOCKS) -> None:
        """Set up.

        Args:
            signers: addresses in the certificate of a height; empty where this node doesn't have it.
            window_blocks: how long a validator has to be missing.
        """
        self._signers = signers
        self._window_blocks = window_blocks
        self._height = 0
        self._seen: dict[bytes, int] = {}

    def away(self, height: int, active: Collection[bytes], present: Collection[bytes]) -> frozenset[bytes]:
        """The active validators that have signed nothing for the whole window, and aren't among the `present`.

        One that is new, or that nothing is known of since this node started, is given the whole window from now on.
        """
        for each in range(max(self._height, height - self._window_blocks) + 1, height + 1):
            for address in self._signers(each):
                self._seen[address] = each
        self._height = max(self._height, height)
        self._seen = {address: self._seen.get(address, height) for address in active}
        late = height - self._window_blocks
        return frozenset(address for address, seen in self._seen.items() if seen <= late and address not in present)
