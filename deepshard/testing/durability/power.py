"""Part "power": one validator of four loses power at every operation of its disk in turn, and the network goes on.

A run is one of the simulator's: its services, network, clock, seal and oracle. Up to the loss it is the same each time,
so a point, the number of an operation of the victim's disk counted from its first start, is the
same write, truncation, sync, creation or deletion each time. The power goes before it; the victim starts again at once,
at the height and round it was in, which is where a validator that forgot would contradict itself.

The oracle judges what left the victim before and after: no two signatures for one place, no decision undone, the same
blocks and state roots as the others, no undamaged disk refused. Beyond that the victim has to vote again at a height
that it hadn't decided, and its files have to hold every decided block afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final
from unittest.mock import patch

import trio

from deepshard.consensus.types import Block
from deepshard.disk.home import open_home
from deepshard.encoding import decode
from deepshard.errors import LocalError, UsageError
from deepshard.limits import BLOCK_BYTES_MAX
from deepshard.services import executor
from deepshard.testing.fault_disk import Crash, FaultDisk
from deepshard.testing.simulate import run_plan
from deepshard.testing.simulate.log import EventLog
from deepshard.testing.simulate.node import CHAIN
from deepshard.testing.simulate.plan import Fault, Plan, Work, chance
from deepshard.testing.simulate.world import World

VICTIM: Final = 0
SNAPSHOT_BLOCKS: Final = 3
"""Blocks between two state snapshots here, so that a short run writes some and drops some."""
VOTE_S: Final = 60.0
"""Virtual seconds within which the victim, restarted among healthy others, has to vote again."""
VARIANTS: Final = (*(mode.value for mode in Crash), "twice", "guard-left")
"""What is left of what wasn't synced. `twice` is `torn`, and the power goes again while the victim starts. After
`guard-left`, which is `lost`, the chain's files are taken away, with the log: the guard alone knows what was signed."""
_BESIDES_MODE: Final = {"twice": Crash.TORN, "guard-left": Crash.LOST}
_AGAIN_WITHIN: Final = 30
_NEVER: Final = 10_000.0
_FAMILY: Final = {"seconds": 40.0, "latency_s": (0.001, 0.02), "propose_s": 0.3, "vote_s": 0.2}
_WORK: Final = (
    Work(0.05, VICTIM, "transfer", 2, 3),
    Work(0.1, 1, "bond", 1, 100),
    Work(0.3, 2, "transfer", VICTIM, 5),
    Work(0.4, VICTIM, "bond", VICTIM, 50),
)
_ROUGH: Final = (
    # Without the fourth, nothing is decided without the victim; late proposals make it vote for nil, and lock late.
    Fault("late", 0.0, _NEVER, (3,), amount=_NEVER),
    Fault("delay", 0.0, _NEVER, (1,), (0, 2), amount=0.8),
    Fault("loss", 0.0, _NEVER, (0, 1, 2), (0, 1, 2), amount=0.3, mode="votes"),
)
STAGES: Final[dict[str, tuple[str, int, tuple[Fault, ...]]]] = {
    "calm": ("four validators and no other fault", 6, ()),
    "rough": ("the victim is needed for every decision; proposals come late and votes get lost", 3, _ROUGH),
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What the victim's disk does at a point, and the victim's height then."""

    point: int
    kind: str
    file: str
    height: int


@dataclass(frozen=True, slots=True)
class Loss:
    """A power loss: at a point (from 1) of a stage, leaving what the variant says."""

    stage: str
    point: int
    variant: str

    @property
    def mode(self) -> Crash:
        """What is left."""
        return _BESIDES_MODE.get(self.variant) or Crash(self.variant)

    def command(self, seed: int) -> str:
        """What runs this point alone."""
        return (
            f"python -m deepshard.testing.durability --only power --stage {self.stage} --point {self.point} "
            f"--variant {self.variant} --seed {seed}"
        )


@dataclass(slots=True)
class Story:
    """What came of a run."""

    violation: str | None = None
    losses: int = 0
    operations: list[Operation] = field(default_factory=list)


class PowerWorld(World):
    """A network in which the victim loses power at a point; without one it only counts its operations."""

    def __init__(self, plan: Plan, log: EventLog, loss: Loss | None, story: Story) -> None:
        super().__init__(plan, log)
        self._loss, self._story = loss, story
        self.victim = self.nodes[VICTIM]
        self.victim.remembers = True
        self._rng = chance(f"power {plan.seed} {loss}")
        self.disk = self.victim.files = FaultDisk(self._rng)
        self.disk.on_operation = self._note
        self._lost_at = 0
        self.tip = 0
        """Height that the victim has announced."""

    async def run(self) -> None:
        """Run to the end, then look at what the victim's files hold."""
        if self._loss is not None:
            self.victim.lose_power_after(self._loss.point, self._loss.mode)
        await super().run()
        if self.oracle.violation is None and self._loss is not None and not self._story.losses:
            self.oracle.fail(f"point {self._loss.point} was never reached")
        if self.oracle.violation is None:
            self.disk.on_operation = None
            self._check_files()

    async def _work(self) -> None:
        self.nursery.start_soon(self._revive)
        await super()._work()

    async def _heal(self) -> None:
        await super()._heal()
        with trio.move_on_after(VOTE_S):
            while not self._has_voted() and self.oracle.violation is None:
                await self._next_event()
        if self.oracle.violation is None and not self._has_voted():
            self.oracle.fail(f"the victim decides nothing any more: it has not voted above height {self._lost_at}")

    async def _revive(self) -> None:
        """Start the victim again whenever it has lost power."""
        loss = self._loss
        while self.victim.refused is None:
            await self.victim.wait_down()
            if self.oracle.violation is not None or loss is None or self.victim.refused is not None:
                return
            self._story.losses += 1
            self._lost_at = max(node.height for node in self.nodes)
            if loss.variant == "guard-left":
                self._take_chain_away()
            if loss.variant == "twice" and self._story.losses == 1:
                self.victim.lose_power_after(self._rng.randint(1, _AGAIN_WITHIN), loss.mode)
            await trio.lowlevel.checkpoint()
            self.victim.boot()

    def _take_chain_away(self) -> None:
        for path in self.disk.files():
            if path.name.startswith(CHAIN.name):
                self.disk.remove(path)
        self.oracle.emptied(self.victim.name)

    def moved(self) -> None:
        """Somebody has decided something."""
        self.tip = max(self.tip, self.victim.height)
        super().moved()

    def _note(self, kind: str, name: str) -> None:
        operations = self._story.operations
        operations.append(Operation(len(operations) + 1, kind, name.rpartition("/")[2], self.tip))

    def _has_voted(self) -> bool:
        address = self.victim.key.address
        votes = self.oracle.votes.values()
        return any(v is not None and v.validator == address and v.height > self._lost_at for v in votes)

    def _check_files(self) -> None:
        """Open the victim's files once more: every decided block has to be there."""
        try:
            journal, store = open_home(CHAIN.parent, genesis_hash=self.genesis.hash(), files=self.disk)
            blocks = store.blocks(1, store.height())
            store.receipts(limit=1 << 20)
            store.close()
            journal.close()
        except (LocalError, UsageError) as error:
            self.oracle.fail(f"the victim's undamaged files are refused: {error}")
            return
        ids = [decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header.block_id() for stored in blocks]
        decided = [self.oracle.blocks.get(height) for height in range(1, len(ids) + 1)]
        if ids != decided or not ids:
            self.oracle.fail(f"the victim's files hold other blocks than those decided, of {len(ids)} heights")


def plan_of(stage: str, seed: int) -> Plan:
    """The network of a stage."""
    _, blocks, faults = STAGES[stage]
    return Plan(
        seed=seed,
        scenario=f"power-{stage}",
        stakes=(1, 1, 1, 1),
        candidates=0,
        byzantine=(),
        blocks=blocks,
        interval_s=0.05,
        dials=0,
        heals=True,
        beyond=False,
        light=False,
        snapshot_gap=200,
        work=_WORK,
        faults=faults,
        **_FAMILY,  # type: ignore[arg-type]  # each is of its field's type
    )


@contextmanager
def small_snapshots() -> Iterator[None]:
    """Store a snapshot of the state every few blocks."""
    with patch.object(executor, "SNAPSHOT_BLOCKS", SNAPSHOT_BLOCKS):
        yield


def operations_of(stage: str, seed: int) -> list[Operation]:
    """Every operation of the victim's disk in a run of the stage without a power loss."""
    story = run_loss(stage, seed, None)
    assert story.violation is None, story.violation
    return story.operations


def run_loss(stage: str, seed: int, loss: Loss | None, *, canary: str | None = None) -> Story:
    """Run a stage with a power loss, or without for None."""
    story = Story()

    def world_of(plan: Plan, log: EventLog) -> World:
        return PowerWorld(plan, log, loss, story)

    with small_snapshots():
        story.violation = run_plan(plan_of(stage, seed), canary=canary, world_of=world_of).violation
    return story
