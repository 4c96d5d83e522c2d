"""`verdict.json`: profiles and sketches that validators report, and the verdict that follows (chapter 11.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from deepshard.conformance.vectors.document import Json, accept, digest_of, document
from deepshard.conformance.vectors.generate.judging import Report, Score, Trainer, judge
from deepshard.ledger.records import Probe, ProbePool

_CLAUSES: Final = ("11.5/13", "11.5/14", "11.5/15", "11.5/16", "11.5/17", "11.5/18")
_LIMITS: Final = {
    "progress_margin": 50,
    "heldout_loss_max": 500,
    "rejected_gain_bp": 5000,
    "profile_distance_max": 80,
    "update_distance_max_bp": 500,
}
_POOLS: Final[tuple[ProbePool, ...]] = (
    "batch",
    "batch",
    "batch",
    "heldout",
    "heldout",
    "rejected",
    "rejected",
    "general",
)
_GAINS: Final = {"batch": 600, "heldout": 140, "rejected": 150, "general": 20}
_BUCKETS: Final = 8
Submission = tuple[list[Score], list[int]] | None


def make() -> Json:
    """The file."""
    return document(
        "verdict",
        "Verdicts of training rounds (chapter 11.5/13 to 11.5/18): reported integers, and who is accepted.",
        [*_mixtures(), *_stakes(), *_reporters(), *_edges(), *_clusters()],
    )


def submission(behaviour: str, pools: Sequence[str] = _POOLS) -> Submission:
    """What would be measured of a trainer that behaves so."""
    gains, sketch, shift = dict(_GAINS), [1000] * _BUCKETS, 0
    match behaviour:
        case "unavailable":
            return None
        case "base":
            gains, sketch = dict.fromkeys(gains, 0), [0] * _BUCKETS
        case "injector":
            shift, sketch = 200, [1000 + 400 * (place % 2) for place in range(_BUCKETS)]
        case "other":
            shift, sketch = -250, [1000 - 600 * (place % 3 == 0) for place in range(_BUCKETS)]
        case "leaker":
            gains["rejected"] = 600
        case "forgetter":
            gains["heldout"] = gains["general"] = -600
        case "noisy":
            shift = 3
    scores = [(gains[pool] + shift * (-1) ** place, 40, 60) for place, pool in enumerate(pools)]
    return scores, sketch


def _case(
    name: str,
    trainers: Sequence[Trainer],
    reports: Sequence[Report],
    *,
    validators_stake: int = 4,
    pools: Sequence[ProbePool] = _POOLS,
    **limits: int,
) -> Json:
    bounds = {**_LIMITS, **limits}
    joined = [
        {"address": one.address, "stake": one.stake, "committed": one.committed, "revealed": one.revealed}
        for one in trainers
    ]
    said = [{"stake": report.stake, "submissions": [_shown(one) for one in report.submissions]} for report in reports]
    probes = [Probe(pool, digest_of(f"{pool} {place}")) for place, pool in enumerate(pools)]
    fields: Json = {"limits": bounds, "trainers": joined, "pools": [probe.pool for probe in probes], "reports": said}
    verdict = judge(list(trainers), pools, reports, validators_stake, bounds)
    return accept(name, _CLAUSES, validators_stake=validators_stake, **fields, verdict=verdict)


def _shown(said: Submission) -> Json | None:
    return None if said is None else {"profile": said[0], "sketch": said[1]}


def _joined(behaviours: Sequence[str], stakes: Sequence[int] = ()) -> list[Trainer]:
    sizes = stakes or [100] * len(behaviours)
    return [
        Trainer(bytes([place]) * 20, size, what != "uncommitted", what not in {"uncommitted", "unrevealed"})
        for place, (what, size) in enumerate(zip(behaviours, sizes, strict=True))
    ]


def _revealed(behaviours: Sequence[str]) -> list[Submission]:
    return [submission(what) for what in behaviours if what not in {"uncommitted", "unrevealed"}]


def _mixtures() -> Iterator[Json]:
    for behaviours in (
        ["honest"],
        ["honest"] * 4,
        ["noisy", "honest", "honest"],
        ["honest", "honest", "honest", "injector"],
        ["base", "honest", "honest", "honest"],
        ["honest", "leaker", "honest"],
        ["honest", "forgetter", "honest"],
        ["honest", "unavailable", "honest"],
        ["honest", "unrevealed", "honest"],
        ["uncommitted", "honest", "honest"],
        ["honest", "injector", "honest", "injector"],
        ["honest", "injector", "honest", "other"],
        ["honest", "base", "honest", "leaker"],
        ["honest", "injector", "base", "uncommitted"],
        ["base", "base"],
        ["unavailable", "unavailable"],
        ["uncommitted", "unrevealed"],
        ["noisy", "noisy", "injector", "base", "leaker", "uncommitted", "unrevealed", "unavailable", "honest"],
    ):
        reports = [Report(1, _revealed(behaviours)) for _ in range(4)]
        yield _case(", ".join(behaviours), _joined(behaviours), reports)
    yield _case("nobody joined", [], [])


def _stakes() -> Iterator[Json]:
    behaviours = ["honest", "honest", "injector"]
    reports = [Report(1, _revealed(behaviours)) for _ in range(4)]
    for stakes in ([100, 100, 201], [100, 100, 200], [100, 100, 199], [2**60, 1, 2**60]):
        yield _case(f"stakes {stakes}", _joined(behaviours, stakes), reports)


def _reporters() -> Iterator[Json]:
    behaviours = ["honest", "injector", "honest", "unrevealed"]
    for stakes, total in (((1, 1, 1), 4), ((1, 1), 3), ((), 4), ((7,), 10), ((67, 67), 201), ((2**60, 2**59), 2**61)):
        reports = [Report(stake, _revealed(behaviours)) for stake in stakes]
        name = f"reports by {list(stakes)} of {total}"
        yield _case(name, _joined(behaviours), reports, validators_stake=total)
    two = ["honest", "honest"]
    for lie in ("unavailable", "base", "leaker", "injector"):
        reports = [Report(2, _revealed(two)), Report(1, _revealed([lie, lie]))]
        yield _case(f"a third of the stake reports {lie}", _joined(two), reports, validators_stake=3)
    for stake in (100, 101):
        reports = [Report(300 - stake, _revealed(two)), Report(stake, _revealed(["unavailable"] * 2))]
        yield _case(f"{stake} of 300 could retrieve nothing", _joined(two), reports, validators_stake=300)
    mixed = [Report(stake, _revealed([what] * 2)) for stake, what in ((3, "honest"), (2, "noisy"), (4, "injector"))]
    yield _case("medians by stake", _joined(two), mixed, validators_stake=10)


def _edges() -> Iterator[Json]:
    """One trainer, one probe of each pool, and the tests at their limits."""
    pools: tuple[ProbePool, ...] = ("batch", "heldout", "rejected", "general")
    for gains in (
        {"batch": 50},
        {"batch": 49},
        {"batch": 150, "heldout": 200},
        {"batch": 149, "heldout": 200},
        {"batch": 100, "heldout": -1000, "rejected": -500},
        {"batch": 100, "heldout": -1001, "rejected": -500},
        {"batch": 100, "rejected": 50},
        {"batch": 100, "rejected": 51},
        {"batch": 300, "heldout": 200, "rejected": 200},
        {"batch": 300, "heldout": 200, "rejected": 201},
        {"batch": -1, "heldout": -101},
        {"batch": 2**40, "heldout": -(2**40)},
    ):
        scores = [(gains.get(pool, 0), 0, 0) for pool in pools]
        name = "gains " + ", ".join(f"{pool} {gain}" for pool, gain in gains.items())
        yield _case(name, _joined(["one"]), [Report(1, [(scores, [1])])], validators_stake=1, pools=pools)
    alone: tuple[ProbePool, ...] = ("batch", "batch")
    for scores in ([(0, 0, 0), (1, 0, 0)], [(1, 0, 0), (1, 0, 0)], [(-1, 0, 0), (4, 0, 0)]):
        fields = {"validators_stake": 1, "progress_margin": 0}
        name = f"no other pool, log-probs {[score[0] for score in scores]}, no margin"
        yield _case(name, _joined(["one"]), [Report(1, [(scores, [1])])], pools=alone, **fields)


def _clusters() -> Iterator[Json]:
    """Trainers on a line, told apart by one number."""
    pools: tuple[ProbePool, ...] = ("batch",)
    for name, places, distance in (
        ("a chain isn't a cluster", (0, 90, 180), 100),
        ("within reach of each other", (0, 90, 100), 100),
        ("two groups", (0, 300, 1, 301, 2), 100),
        ("the nearest merge first", (0, 60, 100, 150), 100),
        ("ties go to the first", (0, 50, 100, 150, 200), 50),
        ("equal ones, no distance allowed", (5, 5, 6), 0),
        ("all apart", (0, 1000, 2000), 100),
    ):
        said: list[Submission] = [([(1000 + place, 0, 0)], [1]) for place in places]
        fields = {"validators_stake": 1, "profile_distance_max": distance}
        yield _case(name, _joined(["on a line"] * len(places)), [Report(1, said)], pools=pools, **fields)
    sketches = {
        "opposite updates": [[9, 0], [-9, 0], [9, 0]],
        "orthogonal updates": [[9, 0], [0, 9], [9, 0]],
        "updates of nothing": [[0, 0], [0, 0]],
        "updates at the limit": [[1000, 0], [1000, 223], [1000, 224]],
        "updates beyond 64 bits": [[2**62, -(2**62)], [2**62, -(2**62)], [-(2**62), 2**62]],
    }
    for name, updates in sketches.items():
        said = [([(1000, 0, 0)], sketch) for sketch in updates]
        yield _case(name, _joined(["x"] * len(updates)), [Report(1, said)], validators_stake=1, pools=pools)
    curved: list[Submission] = [([(1000, bend, 0)], [1]) for bend in (0, 320, 324)]
    yield _case("curvatures count a quarter", _joined(["x"] * 3), [Report(1, curved)], validators_stake=1, pools=pools)
