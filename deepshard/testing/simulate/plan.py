"""What happens in a run, drawn from its seed before it begins: the network, its faults and its work. Pure.

A plan is data: any of its faults can be left out (`only`), which is how a failing run is shrunk and replayed. Whatever
chance a fault needs while it acts comes from a generator of its own, so that leaving one out doesn't change another.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from deepshard.errors import UsageError

FaultKind = Literal[
    "delay",
    "loss",
    "reorder",
    "duplicate",
    "partition",
    "link-break",
    "clock",
    "slow",
    "crash",
    "restart",
    "bit-rot",
    "equivocate",
    "twins",
    "withhold",
    "lie",
    "garbage",
    "flood",
    "amnesia",
    "squander",
    "late",
]
FAULT_KINDS: tuple[FaultKind, ...] = FaultKind.__args__  # type: ignore[attr-defined]  # what a Literal lists
BYZANTINE_KINDS: tuple[FaultKind, ...] = (
    "equivocate",
    "twins",
    "withhold",
    "lie",
    "garbage",
    "flood",
    "amnesia",
    "squander",
)
STAKE_UNIT_TOKENS = 500
"""The least bond of the simulated networks."""
CRASH_MODES = ("lost", "kept", "subset", "torn")
Seconds = Annotated[float, msgspec.Meta(ge=0)]


def chance(purpose: str) -> random.Random:
    """A generator of its own for each purpose; the seed is part of the purpose."""
    return random.Random(purpose)  # noqa: S311  # repeats by design


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One fault. Times are virtual seconds; nodes are numbers; what `amount` means depends on the kind.

    `delay`: up to `amount` seconds more on links from `nodes` to `others`. `loss`, `duplicate`, `reorder`: that share
    of their messages (of votes only, in the mode `votes`). `partition`: none of them gets through. `link-break`: the
    links between them are closed. `clock`: the clock of `nodes` is off by `amount` seconds, and drifts by a thousandth
    of it. `slow`: each message takes them `amount` seconds. `crash`: power is lost after `amount` operations of the
    disk, in `mode`. `bit-rot`: `amount` bits flip in the file that `mode` names, and the node is restarted. `late`: it
    starts when `amount` blocks are decided. The others are what Byzantine nodes do.
    """

    kind: FaultKind
    at: Seconds
    until: Seconds
    nodes: tuple[int, ...] = ()
    others: tuple[int, ...] = ()
    amount: float = 0.0
    mode: str = ""


class Work(msgspec.Struct, frozen=True):
    """A transaction that a node's wallet sends."""

    at: Seconds
    node: int
    action: Literal["transfer", "bond", "unbond"]
    to: int
    tokens: int


class Plan(msgspec.Struct, frozen=True):
    """A whole run."""

    seed: int
    scenario: str
    stakes: tuple[int, ...]
    """Of the validators at genesis, in units of the least bond; nodes after these begin without one."""
    candidates: int
    byzantine: tuple[int, ...]
    blocks: int
    """The run's first part ends when so many are decided, or after `seconds`."""
    seconds: float
    latency_s: tuple[float, float]
    interval_s: float
    """Pause before a block without transactions."""
    propose_s: float
    vote_s: float
    dials: int
    """Links that each node opens; 0: to all others."""
    heals: bool
    """Whether faults stop then, and all honest nodes must decide (liveness)."""
    beyond: bool
    """Whether the Byzantine nodes hold a third of the power or more."""
    light: bool
    snapshot_gap: int
    """Blocks behind from which a node joins by a snapshot."""
    work: tuple[Work, ...]
    faults: tuple[Fault, ...]

    @property
    def nodes(self) -> int:
        """Validators at genesis and candidates."""
        return len(self.stakes) + self.candidates

    def only(self, kept: Sequence[int]) -> Plan:
        """The plan with only these of its faults.

        Raises:
            UsageError: there is no such fault.
        """
        missing = [number for number in kept if not 0 <= number < len(self.faults)]
        if missing:
            raise UsageError(
                f"seed {self.seed} of {self.scenario} has {len(self.faults)} faults, numbered from 0; "
                f"there is no fault {missing[0]}"
            )
        return msgspec.structs.replace(self, faults=tuple(self.faults[number] for number in kept))


def meets_second_twin(seed: int, number: int) -> bool:
    """Whether a node talks to the second instances of twins."""
    return chance(f"twins {seed} {number}").random() < 0.5


@dataclass(frozen=True, slots=True)
class Scenario:
    """A family of plans. `faults` are the kinds drawn from, `faults_max` how many at most."""

    about: str
    nodes: tuple[int, ...] = (4, 4, 5, 7)
    blocks: tuple[int, int] = (6, 14)
    seconds: float = 25.0
    faults: tuple[FaultKind, ...] = ()
    faults_max: int = 0
    byzantine: Literal["none", "below", "beyond"] = "none"
    unequal: bool = False
    changes: bool = False
    work_max: int = 3
    latency_s: tuple[float, float] = (0.001, 0.02)
    interval_s: tuple[float, ...] = (0.05, 0.1, 0.3)
    propose_s: tuple[float, ...] = (0.3, 0.5, 1.0)
    vote_s: tuple[float, ...] = (0.1, 0.2, 0.4)
    dials: int = 0
    heals: float = 0.5
    snapshot_gap: int = 200


_NETWORK: tuple[FaultKind, ...] = ("delay", "loss", "reorder", "duplicate", "partition", "link-break", "clock", "slow")
_DISK: tuple[FaultKind, ...] = ("crash", "crash", "restart", "bit-rot")
SCENARIOS: dict[str, Scenario] = {
    "plain": Scenario("no faults, one block after the other", nodes=(4,), blocks=(300, 300), seconds=1e4, heals=0),
    "network": Scenario("links and clocks fail", faults=_NETWORK, faults_max=6),
    "crashes": Scenario("disks lose power and rot", faults=(*_DISK, "loss", "delay", "partition"), faults_max=6),
    "byzantine": Scenario(
        "below a third of the power is Byzantine",
        faults=(*BYZANTINE_KINDS, "equivocate", "twins", "partition", "delay", "loss"),
        faults_max=7,
        byzantine="below",
        unequal=True,
    ),
    "mixed": Scenario(
        "everything at once, below a third Byzantine",
        faults=_NETWORK + _DISK + BYZANTINE_KINDS,
        faults_max=9,
        byzantine="below",
        unequal=True,
    ),
    "stakes": Scenario(
        "unequal stakes; validators come and go",
        blocks=(16, 24),
        seconds=40.0,
        faults=("delay", "loss", "crash", "restart", "link-break", "slow"),
        faults_max=3,
        unequal=True,
        changes=True,
        work_max=6,
    ),
    "join": Scenario(
        "a node comes late and joins by a snapshot",
        nodes=(4, 5),
        blocks=(62, 75),
        seconds=60.0,
        faults=("late", "lie", "garbage", "loss", "delay"),
        faults_max=3,
        byzantine="below",
        heals=1.0,
        snapshot_gap=10,
        interval_s=(0.05,),
    ),
    "beyond": Scenario(
        "a third of the power or more is Byzantine: forks happen and must be provable",
        faults=("twins", "equivocate", "amnesia", "partition", "delay"),
        faults_max=6,
        byzantine="beyond",
        heals=0,
    ),
    "wan100": Scenario(
        "100 validators, one-way latencies from 50 to 150 ms",
        nodes=(100,),
        blocks=(6, 6),
        seconds=120.0,
        latency_s=(0.05, 0.15),
        interval_s=(1.0,),
        propose_s=(3.0,),
        vote_s=(1.0,),
        dials=10,
        work_max=0,
        heals=0,
    ),
}
RUN_SET = (
    "mixed",
    "byzantine",
    "crashes",
    "network",
    "mixed",
    "stakes",
    "byzantine",
    "beyond",
    "crashes",
    "mixed",
    "stakes",
    "join",
)
"""Scenarios of the run set: the one of a seed is at its place modulo the length."""


def draw(seed: int, scenario: str, nodes: int | None = None) -> Plan:
    """The plan of a seed.

    Raises:
        UsageError: no such scenario, or no network of so many nodes.
    """
    family = SCENARIOS.get(scenario)
    if family is None:
        raise UsageError(f"no scenario {scenario!r}: there are {', '.join(SCENARIOS)}, and set")
    if nodes is not None and not 4 <= nodes <= 100:
        raise UsageError(f"a simulated network has 4 to 100 nodes, not {nodes}")
    rng = chance(f"plan {scenario} {seed}")
    count = nodes if nodes is not None else rng.choice(family.nodes)
    stakes = tuple(rng.choice((1, 1, 2, 3)) if family.unequal else 1 for _ in range(count))
    byzantine = _byzantine(rng, stakes, family.byzantine)
    candidates = 1 if family.changes else 0
    seconds = family.seconds
    members = count + candidates
    blocks = rng.randint(*family.blocks)
    interval_s = rng.choice(family.interval_s)
    busy_s = blocks * (interval_s + 0.2)
    """About how long the blocks take where nothing fails; faults begin while there is something to disturb."""
    faults = [
        _fault(rng, rng.choice(family.faults), members, byzantine, busy_s)
        for _ in range(rng.randint(1, family.faults_max) if family.faults_max else 0)
    ]
    if family.byzantine != "none" and not any(fault.kind in BYZANTINE_KINDS for fault in faults):
        faults.append(_fault(rng, rng.choice(("equivocate", "twins")), members, byzantine, busy_s))
    if scenario == "join" and not any(fault.kind == "late" for fault in faults):
        faults.append(_fault(rng, "late", members, byzantine, busy_s))
    if family.byzantine == "beyond":
        faults += [_fault(rng, kind, members, byzantine, busy_s) for kind in ("twins", "equivocate")]
        if rng.random() < 0.6:
            faults += _rift(rng, seed, [number for number in range(members) if number not in byzantine], busy_s)
    return Plan(
        seed=seed,
        scenario=scenario,
        stakes=stakes,
        candidates=candidates,
        byzantine=byzantine,
        blocks=blocks,
        seconds=seconds,
        latency_s=family.latency_s,
        interval_s=interval_s,
        propose_s=rng.choice(family.propose_s),
        vote_s=rng.choice(family.vote_s),
        dials=family.dials,
        heals=rng.random() < family.heals,
        beyond=family.byzantine == "beyond",
        snapshot_gap=family.snapshot_gap,
        light=family.faults_max > 0 and rng.random() < 0.2,
        work=_work(rng, family, count, members, busy_s, stakes),
        faults=tuple(sorted(faults, key=lambda fault: (fault.at, fault.kind))),
    )


def _byzantine(rng: random.Random, stakes: tuple[int, ...], share: str) -> tuple[int, ...]:
    """Whose stake together stays below a third; or reaches it, but not two thirds."""
    if share == "none":
        return ()
    total = sum(stakes)
    order = rng.sample(range(len(stakes)), len(stakes))
    chosen: list[int] = []
    for number in order:
        power = sum(stakes[one] for one in (*chosen, number))
        if share == "below" and 3 * power < total:
            chosen.append(number)
        if share == "beyond" and 3 * sum(stakes[one] for one in chosen) < total and 3 * power <= 2 * total:
            chosen.append(number)
    return tuple(sorted(chosen))


def _fault(rng: random.Random, kind: FaultKind, members: int, byzantine: tuple[int, ...], seconds: float) -> Fault:
    everyone = list(range(members))
    at = round(rng.uniform(0, seconds * 0.7), 3)
    until = round(at + rng.uniform(0.5, seconds * 0.6), 3)
    some = tuple(sorted(rng.sample(everyone, rng.randint(1, max(1, members - 1)))))
    others = tuple(sorted(rng.sample(everyone, rng.randint(1, members))))
    one = (rng.choice(everyone),)
    liars = tuple(sorted(rng.sample(byzantine, rng.randint(1, len(byzantine))))) if byzantine else one
    match kind:
        case "delay":
            return Fault(kind, at, until, some, others, amount=round(rng.choice((0.05, 0.3, 1.5)), 3))
        case "loss" if rng.random() < 0.6:
            # Proposals come through and most votes don't: some lock what others never hear of.
            return Fault(kind, at, until, tuple(everyone), others, amount=rng.choice((0.5, 0.7, 0.85)), mode="votes")
        case "loss" | "duplicate" | "reorder":
            return Fault(kind, at, until, some, others, amount=rng.choice((0.05, 0.2, 0.5)))
        case "partition":
            if rng.random() < 0.5:
                others = tuple(number for number in everyone if number not in some)
            return Fault(kind, at, until, some, others)
        case "link-break":
            return Fault(kind, at, until, some, others)
        case "clock":
            return Fault(kind, at, until, one, amount=rng.choice((-3600.0, -20.0, -1.0, 1.0, 8.0, 20.0)))
        case "slow":
            return Fault(kind, at, until, one, amount=rng.choice((0.005, 0.02, 0.08)))
        case "crash":
            honest = tuple(sorted(rng.sample(everyone, min(members, rng.choice((1, 1, 1, 2, members))))))
            operations = float(rng.randint(1, 60))
            return Fault(kind, at, until, honest, amount=operations, mode=rng.choice(CRASH_MODES))
        case "restart":
            return Fault(kind, at, until, one)
        case "bit-rot":
            where = rng.choice(("chain.sqlite", "chain.sqlite", "guard.db"))
            return Fault(kind, at, until, one, amount=float(rng.choice((1, 1, 3, 20))), mode=where)
        case "late":
            return Fault(kind, 0.0, 1e4, one, amount=float(rng.randint(52, 60)))
        case "twins":
            return Fault(kind, 0.0, 1e4, liars, amount=rng.choice((0.0, 1.0)))
        case _:
            return Fault(kind, at, until, liars, others, amount=rng.choice((0.3, 0.7, 1.0)))


def _rift(rng: random.Random, seed: int, honest: list[int], seconds: float) -> list[Fault]:
    """The honest are parted along the line between the instances of twins: each side is told another story."""
    sides = [tuple(n for n in honest if meets_second_twin(seed, n) is second) for second in (False, True)]
    at, until = round(rng.uniform(0, seconds * 0.3), 3), round(seconds * rng.uniform(0.6, 2.0), 3)
    return [Fault("partition", at, until, one, other) for one, other in (sides, sides[::-1])]


def _work(
    rng: random.Random, family: Scenario, validators: int, members: int, busy_s: float, stakes: tuple[int, ...]
) -> tuple[Work, ...]:
    work = []
    for _ in range(rng.randint(0, family.work_max)):
        at, node = round(rng.uniform(0.0, busy_s), 3), rng.randrange(members)
        work.append(Work(at, node, "transfer", rng.randrange(members), rng.randint(1, 20)))
    if family.changes:
        # A newcomer bonds, one validator bonds more, and one takes out half of its stake or all.
        work.append(Work(round(rng.uniform(0.1, 2.0), 3), validators, "bond", validators, rng.randint(500, 900)))
        adder, leaver = rng.sample(range(validators), 2)
        work.append(Work(round(rng.uniform(0.1, 3.0), 3), adder, "bond", adder, rng.choice((100, 500))))
        stake = stakes[leaver] * STAKE_UNIT_TOKENS
        part = rng.choice((stake, stake if stakes[leaver] == 1 else STAKE_UNIT_TOKENS))
        work.append(Work(round(rng.uniform(0.1, 3.0), 3), leaver, "unbond", leaver, part))
    return tuple(sorted(work, key=lambda one: one.at))
