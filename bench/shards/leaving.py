"""Holders that leave or fail: what moves, what is lost, and how placement compares with plainer ways.

The ways are this network's; the same without failure domains (weighted rendezvous hashing alone); a ring of consistent
hashing (Karger et al., STOC 1997), on which each holder has points by its weight and a shard is held by the next
holders; and that ring where holders whose operator or network has a copy are passed over while others are left.
"""

from __future__ import annotations

import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple

from deepshard.placement import Candidate, place, shard_key
from deepshard.primitives import tagged_hash
from deepshard.shards.repair import plan_repairs

from .table import Row

HOLDERS: Final = 20
REPLICATION: Final = 3
FAILING: Final = 6
OPERATORS: Final = (3, 3, 3, 3, 3, 3, 2)
"""Holders of each operator. They sit in networks that cut across operators, of up to four holders each."""
NETWORKS: Final = 5
RING_POINTS: Final = 128
"""Of a holder of mean weight."""
Placed = list[tuple[bytes, ...]]
Way = Callable[[Sequence[bytes], Sequence[Candidate]], Placed]


class Size(NamedTuple):
    """Shards to place, networks of holders to draw, and failures to draw in all."""

    shards: int
    networks: int
    draws: int


FULL: Final = Size(shards=1000, networks=10, draws=10_000)
QUICK: Final = Size(shards=100, networks=2, draws=200)


def holders_of(seed: int) -> list[Candidate]:
    """Twenty holders whose weights differ by up to four times, with operators and networks."""
    random = Random(seed)
    operators = [f"operator {number}" for number, size in enumerate(OPERATORS) for _ in range(size)]
    networks = [f"network {number % NETWORKS}" for number in range(HOLDERS)]
    random.shuffle(networks)
    return [
        Candidate(tagged_hash("bench holder", bytes([seed, number]))[:20], random.randint(25, 100), *labels)
        for number, labels in enumerate(zip(operators, networks, strict=True))
    ]


def with_domains(keys: Sequence[bytes], candidates: Sequence[Candidate]) -> Placed:
    """This network's placement."""
    return place(keys, candidates, REPLICATION)


def without_domains(keys: Sequence[bytes], candidates: Sequence[Candidate]) -> Placed:
    """Weighted rendezvous hashing alone."""
    return place(keys, [Candidate(each.address, each.weight) for each in candidates], REPLICATION)


def ring(keys: Sequence[bytes], candidates: Sequence[Candidate]) -> Placed:
    """The next holders on the ring."""
    return _on_ring(keys, candidates, passing_over=False)


def ring_with_domains(keys: Sequence[bytes], candidates: Sequence[Candidate]) -> Placed:
    """The next on the ring of other operators and networks."""
    return _on_ring(keys, candidates, passing_over=True)


def _on_ring(keys: Sequence[bytes], candidates: Sequence[Candidate], *, passing_over: bool) -> Placed:
    scale = RING_POINTS / 62.5  # by weight alone, so that one who leaves moves nobody else's points
    points = sorted(
        (tagged_hash("bench point", each.address, number.to_bytes(4, "big")), place_)
        for place_, each in enumerate(candidates)
        for number in range(max(1, round(each.weight * scale)))
    )
    starts = [point for point, _ in points]
    placed = []
    for key in keys:
        at = bisect(starts, key)
        order = list(dict.fromkeys(number for _, number in points[at:] + points[:at]))
        chosen: list[int] = []
        passed: list[int] = []
        for number in order:
            each = candidates[number]
            shares = any(candidates[one].operator == each.operator for one in chosen) or any(
                candidates[one].network == each.network for one in chosen
            )
            (passed if passing_over and shares else chosen).append(number)
            if len(chosen) == REPLICATION:
                break
        chosen += passed[: REPLICATION - len(chosen)]
        placed.append(tuple(candidates[number].address for number in chosen))
    return placed


WAYS: Final[dict[str, Way]] = {
    "with domains": with_domains,
    "rendezvous without domains": without_domains,
    "ring": ring,
    "ring that passes over domains": ring_with_domains,
}


def leaving_rows(quick: bool) -> list[Row]:  # noqa: FBT001  # the signature of every row
    """Rows of one holder that leaves, and of six that fail at once."""
    size = QUICK if quick else FULL
    keys = [shard_key("model.layers.mlp.weight", row) for row in range(size.shards)]
    sizes = [Random(row).randint(1_000_000, 4_000_000) for row in range(size.shards)]
    return [*_one_leaves(keys, sizes, quick=quick), *_six_fail(keys, size), _speed(keys)]


def _one_leaves(keys: Sequence[bytes], sizes: Sequence[int], *, quick: bool) -> list[Row]:
    crossing = holders_of(0)
    labels = {
        "operators and networks that cross": crossing,
        "operators alone": [each._replace(network="") for each in crossing],
    }
    rows: list[Row] = []
    for kind, candidates in labels.items():
        leavers = candidates[:2] if quick else candidates
        departures: dict[str, list[_Departure]] = {}
        for name, way in WAYS.items():
            before = way(keys, candidates)
            departures[name] = [_departure(way, keys, sizes, before, candidates, leaver) for leaver in leavers]
        ratio = {
            name: sum(each.moved for each in some) / sum(each.lost for each in some)
            for name, some in departures.items()
        }
        ours = departures["with domains"]
        beside: dict[str, float | str] = {"who moves most": max(each.moved / each.lost for each in ours)}
        beside |= {name: value for name, value in ratio.items() if name != "with domains"}
        name = f"each of 20 holders leaves, {kind}: bytes moved / lost"
        rows.append(Row(name, ratio["with domains"], "x", 1.2, at_least=False, beside=beside))
        name = f"each of 20 holders leaves, {kind}: least copies after"
        rows.append(Row(name, min(each.copies for each in ours), "copies", REPLICATION))
    loads = {name: _load(way(keys, crossing), crossing) for name, way in WAYS.items()}
    name = "20 holders: most held, as a multiple of the share by weight"
    return [*rows, Row(name, loads.pop("with domains"), "x", beside=dict(loads))]


class _Departure(NamedTuple):
    moved: int
    """Bytes that the others fetch."""
    lost: int
    """Bytes that the one who left had."""
    copies: int
    """Fewest of any shard when all is fetched."""


def _departure(
    way: Way,
    keys: Sequence[bytes],
    sizes: Sequence[int],
    before: Placed,
    candidates: Sequence[Candidate],
    leaver: Candidate,
) -> _Departure:
    rest = [each for each in candidates if each != leaver]
    known = {each.address: each for each in rest}
    plan = plan_repairs(way(keys, rest), before, known.keys(), known)
    held = [set(held_by) - {leaver.address} for held_by in before]
    for fetch in plan.fetches:
        held[fetch.shard].add(fetch.to)
    lost = sum(size for size, held_by in zip(sizes, before, strict=True) if leaver.address in held_by)
    return _Departure(sum(sizes[fetch.shard] for fetch in plan.fetches), lost, min(map(len, held)))


def _load(placed: Placed, candidates: Sequence[Candidate]) -> float:
    counts = Counter(address for held_by in placed for address in held_by)
    total = sum(each.weight for each in candidates)
    return max(counts[each.address] * total / (each.weight * REPLICATION * len(placed)) for each in candidates)


def _six_fail(keys: Sequence[bytes], size: Size) -> list[Row]:
    kinds = {
        "two operators of three": two_operators,
        "an operator and a network": operator_and_network,
        "any six": any_six,
    }
    hit: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    shards: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    draws = size.draws // size.networks
    for seed in range(size.networks):
        candidates = holders_of(seed + 1)
        numbers = {each.address: number for number, each in enumerate(candidates)}
        masks = {
            name: Counter(sum(1 << numbers[address] for address in held_by) for held_by in way(keys, candidates))
            for name, way in WAYS.items()
        }
        random = Random(seed)
        for kind, draw in kinds.items():
            for _ in range(draws):
                failed = sum(1 << number for number in draw(random, candidates))
                for name, counted in masks.items():
                    lost = sum(count for mask, count in counted.items() if not mask & ~failed)
                    hit[kind][name] += lost > 0
                    shards[kind][name] += lost
    total = draws * size.networks
    rows = []
    for kind in kinds:
        ours = hit[kind]["with domains"]
        beside: dict[str, float | str] = {
            name: f"{hit[kind][name]} draws, {shards[kind][name] / total / len(keys):.3%} of the shards"
            for name in WAYS
        }
        target = None if kind == "any six" else 0.0
        name = f"6 of 20 fail, {kind}: draws of {total} that lose a shard"
        rows.append(Row(name, float(ours), "draws", target, at_least=False, beside=beside))
    return rows


def two_operators(random: Random, candidates: Sequence[Candidate]) -> set[int]:
    """All holders of two operators that have three each."""
    names = random.sample([f"operator {number}" for number, size in enumerate(OPERATORS) if size == FAILING // 2], 2)
    return {number for number, each in enumerate(candidates) if each.operator in names}


def operator_and_network(random: Random, candidates: Sequence[Candidate]) -> set[int]:
    """An operator and a network that have six holders between them."""
    while True:
        one, other = random.choice(candidates), random.choice(candidates)
        failed = {
            number
            for number, each in enumerate(candidates)
            if each.operator == one.operator or each.network == other.network
        }
        if len(failed) == FAILING:
            return failed


def any_six(random: Random, candidates: Sequence[Candidate]) -> set[int]:
    """Six that have nothing to do with each other."""
    return set(random.sample(range(len(candidates)), FAILING))


def _speed(keys: Sequence[bytes]) -> Row:
    candidates = holders_of(0)
    began = time.process_time()
    place(keys, candidates, REPLICATION)
    each = (time.process_time() - began) / len(keys) / len(candidates)
    return Row("placement of one shard, for each candidate", each * 1e6, "us")
