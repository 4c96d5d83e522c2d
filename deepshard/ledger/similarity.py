"""Distances between submissions and the clusters they form; integers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Final

from deepshard.ledger.params import VerdictLimits
from deepshard.ledger.transactions import ProbeScore

CURVATURE_DIVISOR: Final = 4
"""Curvatures are ratios of small differences and noisier than log-probs: they count a quarter as much."""
_SCALE: Final = CURVATURE_DIVISOR * CURVATURE_DIVISOR


def profile_distance(one: Sequence[ProbeScore], other: Sequence[ProbeScore]) -> int:
    """Root-mean-square distance of two profiles over all probes, in millinats, rounded down; 0 without probes.

    Per probe: the squared difference of the log-probs plus that of each curvature divided by `CURVATURE_DIVISOR`.
    """
    if not one:
        return 0
    total = 0
    for a, b in zip(one, other, strict=True):
        total += _SCALE * (a.log_prob - b.log_prob) ** 2
        total += (a.conditional_curvature - b.conditional_curvature) ** 2
        total += (a.perturbation_curvature - b.perturbation_curvature) ** 2
    return isqrt(total // (_SCALE * len(one)))


def update_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Squared distance of two update sketches as a share of the larger squared norm; basis points, rounded down.

    0 for equal sketches (two zeros included), 20000 for orthogonal ones of one length, 40000 for opposite ones.
    """
    norm = max(sum(a * a for a in one), sum(b * b for b in other))
    if norm == 0:
        return 0
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) * 10_000 // norm


@dataclass(frozen=True, slots=True)
class Position:
    """One submission as the verdict places it: its stake and the medians of what was reported of it."""

    address: bytes
    stake: int
    profile: tuple[ProbeScore, ...]
    sketch: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Distances:
    """All pairwise distances of some submissions, by their indices."""

    profile: tuple[tuple[int, ...], ...]
    update: tuple[tuple[int, ...], ...]


def distances_of(positions: Sequence[Position]) -> Distances:
    """Both distance matrices, symmetric, zero on the diagonal."""
    count = len(positions)
    profile = [[0] * count for _ in range(count)]
    update = [[0] * count for _ in range(count)]
    for i in range(count):
        for j in range(i):
            profile[i][j] = profile[j][i] = profile_distance(positions[i].profile, positions[j].profile)
            update[i][j] = update[j][i] = update_distance(positions[i].sketch, positions[j].sketch)
    return Distances(tuple(map(tuple, profile)), tuple(map(tuple, update)))


def clusters(distances: Distances, limits: VerdictLimits) -> list[tuple[int, ...]]:
    """Agglomerative clusters by complete linkage: within one, every pair is within both limits.

    The linkage of two clusters is the largest, over their pairs, of each distance as a share of its limit, in basis
    points. The two clusters with the least linkage merge, ties going to those with the smallest indices, until no two
    can merge without a pair beyond a limit. Smallest linkage first means that an attacker can't pull one honest
    submission out of a group whose members are closer to each other than to it.
    """
    found: list[tuple[int, ...]] = [(index,) for index in range(len(distances.profile))]
    while True:
        best: tuple[int, int, int] | None = None
        for i in range(len(found)):
            for j in range(i + 1, len(found)):
                linkage = _linkage(distances, limits, found[i], found[j])
                if linkage is not None and (best is None or linkage < best[0]):
                    best = (linkage, i, j)
        if best is None:
            return found
        _, i, j = best
        merged = tuple(sorted(found[i] + found[j]))
        found = sorted([*found[:i], *found[i + 1 : j], *found[j + 1 :], merged])


def _linkage(distances: Distances, limits: VerdictLimits, one: tuple[int, ...], other: tuple[int, ...]) -> int | None:
    """Linkage in basis points of the limits, or None where a pair is beyond one."""
    pairs = [(i, j) for i in one for j in other]
    profile = max(distances.profile[i][j] for i, j in pairs)
    update = max(distances.update[i][j] for i, j in pairs)
    if profile > limits.profile_distance_max or update > limits.update_distance_max_bp:
        return None
    return max(
        profile * 10_000 // max(1, limits.profile_distance_max),
        update * 10_000 // max(1, limits.update_distance_max_bp),
    )


def medoid(distances: Distances, positions: Sequence[Position], cluster: Sequence[int]) -> int:
    """Index of the member with the least sum of profile distances to the others; ties by update distance, address."""
    return min(
        cluster,
        key=lambda i: (
            sum(distances.profile[i][j] for j in cluster),
            sum(distances.update[i][j] for j in cluster),
            positions[i].address,
        ),
    )
