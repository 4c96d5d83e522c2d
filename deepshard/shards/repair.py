"""Repair: which copy of which shard to make next, and how much stands between a shard and its loss.

A shard is as safe as the number of things that have to fail before its last copy is gone: a holder, an operator with
all its holders, or a network with all of its. Copies are made for the least safe shards first, and the first new copy
of every shard comes before anybody's second.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deepshard.placement import Candidate


class Fetch(NamedTuple):
    """A copy to be made."""

    safety: int
    """Failures that the shard survives less than it takes to lose it, once the fetches before this one are done."""
    copies: int
    """Present copies at that time."""
    shard: int
    to: bytes
    sources: tuple[bytes, ...]
    """Addresses that are present and have it, in order."""


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What to fetch, in this order, and the shards that nobody who is present has."""

    fetches: tuple[Fetch, ...]
    lost: tuple[int, ...]


def failures_to_lose(copies: Sequence[Candidate]) -> int:
    """The fewest failures of a holder, an operator or a network that take all these copies; 0 if there are none."""
    if not copies:
        return 0
    # Some failure has to take the first copy; whichever it is, the rest is the same question.
    first, rest = copies[0], copies[1:]
    fewest = failures_to_lose(rest)
    if first.operator:
        fewest = min(fewest, failures_to_lose([each for each in rest if each.operator != first.operator]))
    if first.network:
        fewest = min(fewest, failures_to_lose([each for each in rest if each.network != first.network]))
    return 1 + fewest


def plan_repairs(
    wanted: Sequence[Collection[bytes]],
    held_by: Sequence[Collection[bytes]],
    present: Collection[bytes],
    candidates: Mapping[bytes, Candidate],
) -> RepairPlan:
    """The copies to be made so that all who should hold a shard do.

    Args:
        wanted: who should hold each shard, best first.
        held_by: who has it.
        present: who can be asked. Nobody else fetches, or counts as a copy.
        candidates: labels by address. Who isn't there, such as one who has left and still serves, shares nothing.
    """
    fetches: list[Fetch] = []
    lost: list[int] = []
    for shard, (holders, having) in enumerate(zip(wanted, held_by, strict=True)):
        sources = tuple(sorted(address for address in having if address in present))
        lacking = [address for address in holders if address in present and address not in having]
        if not sources:
            lost.append(shard)
            continue
        copies = [candidates.get(address, Candidate(address, 0)) for address in sources] if lacking else []
        for address in lacking:
            fetches.append(Fetch(failures_to_lose(copies), len(copies), shard, address, sources))
            copies.append(candidates.get(address, Candidate(address, 0)))
    return RepairPlan(tuple(sorted(fetches)), tuple(lost))
