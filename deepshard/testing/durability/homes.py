"""Homes for part "rot": what a validator's disk holds at some moments of a run of part "power".

Each is taken at the operation of the disk that makes it interesting: with votes in the WAL, with a journal that SQLite
has to roll back, with a decided block that isn't in the main file yet. Beside the files come the same files at the
operations before, as long as the validator had told others no more by then, and at the next one: damage to what isn't
finished may lead there, as a power loss a moment earlier or later would have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from deepshard.consensus.types import Step
from deepshard.disk.guard import Signed
from deepshard.disk.home import open_home
from deepshard.identity import SecretKey
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis
from deepshard.testing.durability.power import (
    VICTIM,
    Loss,
    Operation,
    PowerWorld,
    Story,
    operations_of,
    plan_of,
    small_snapshots,
)
from deepshard.testing.fault_disk import Crash, FaultDisk
from deepshard.testing.simulate import run_plan
from deepshard.testing.simulate.log import EventLog
from deepshard.testing.simulate.node import CHAIN
from deepshard.testing.simulate.plan import Plan, chance
from deepshard.testing.simulate.world import World, onion_of

FOLDER: Final = CHAIN.parent
HEIGHT: Final = 5
"""Decided blocks at the moments; there are two snapshots, and receipts."""
_BEFORE_MAX: Final = 80
Image = Mapping[Path, bytes]


@dataclass(frozen=True, slots=True)
class Told:
    """What had left the validator: the height it had announced, and its signatures."""

    height: int
    signed: frozenset[Signed]


@dataclass(frozen=True, slots=True)
class Home:
    """A validator's files at a moment.

    Attributes:
        name: of the moment.
        damaged: names of the files that are damaged in turn.
        image: the files.
        near: the same files at earlier operations at which as much had been told, and at the next operation.
        told: what had left the validator.
    """

    name: str
    damaged: tuple[str, ...]
    image: Image
    near: tuple[Image, ...]
    told: Told
    genesis: Genesis
    key: SecretKey
    onion: OnionChain


class _CapturingWorld(PowerWorld):
    """Keeps the victim's files up to the power loss, and ends there."""

    def __init__(self, plan: Plan, log: EventLog, loss: Loss, story: Story) -> None:
        super().__init__(plan, log, loss, story)
        self.captured: deque[tuple[Told, Image]] = deque(maxlen=_BEFORE_MAX)

    def _note(self, kind: str, name: str) -> None:
        super()._note(kind, name)
        self.captured.append((self._told(), self.disk.files()))

    async def _revive(self) -> None:
        await self.victim.wait_down()
        self._story.losses += 1
        self.captured.append((self._told(), self.disk.files()))
        self.disk.on_operation = None
        self._over.set()

    def _told(self) -> Told:
        address = self.victim.key.address
        votes = (vote for vote in self.oracle.votes.values() if vote is not None and vote.validator == address)
        offers = (offer for offer in self.oracle.proposals.values() if offer is not None and offer.proposer == address)
        signed = [Signed(v.height, v.round, Step(int(v.kind)), v.block_id, v.valid_round) for v in votes]
        signed += [Signed(o.height, o.round, Step.PROPOSE, o.block_id, o.valid_round) for o in offers]
        return Told(self.tip, frozenset(signed))


def _last(operations: Sequence[Operation], kind: str, file: str, height: int | None = None) -> int:
    return max(
        operation.point
        for operation in operations
        if (operation.kind, operation.file) == (kind, file) and height in {None, operation.height}
    )


def _first_after(operations: Sequence[Operation], point: int, file: str) -> int:
    return next(one.point for one in operations if one.point > point and one.kind == "write" and one.file == file)


def _capture(seed: int, point: int) -> _CapturingWorld:
    loss, story, worlds = Loss("calm", point, Crash.KEPT.value), Story(), []

    def world_of(plan: Plan, log: EventLog) -> World:
        worlds.append(_CapturingWorld(plan, log, loss, story))
        return worlds[0]

    plan = msgspec.structs.replace(plan_of("calm", seed), heals=False, blocks=2 * HEIGHT)
    with small_snapshots():
        run_plan(plan, world_of=world_of)
    return worlds[0]


def _captured(seed: int, name: str, damaged: tuple[str, ...], point: int) -> Home:
    world = _capture(seed, point)
    told, image = world.captured[-1]
    near = [earlier for as_told, earlier in list(world.captured)[-2::-1] if as_told == told]
    near.append(_capture(seed, point + 1).captured[-1][1])
    distinct = [other for place, other in enumerate(near) if other not in near[:place]]
    return Home(name, damaged, image, tuple(distinct), told, world.genesis, world.victim.key, onion_of(VICTIM))


def _stopped(home: Home) -> Home:
    """The home after its files were opened and closed in good order."""
    disk = FaultDisk(chance("stopped"), home.image)
    journal, store = open_home(FOLDER, genesis_hash=home.genesis.hash(), files=disk)
    for part in (b"first", b"second"):
        store.save_part(HEIGHT, bytes(32), part, b"part of a state " * 3)
    store.close()
    journal.close()
    files = ("chain.sqlite", "guard.db", "journal.sqlite")
    return Home("stopped", files, disk.files(), (), home.told, home.genesis, home.key, home.onion)


@cache
def homes(seed: int) -> dict[str, Home]:
    """All homes by name."""
    operations = operations_of("calm", seed)
    signed = _last(operations, "truncate", "guard.db-journal", HEIGHT)
    saving = _first_after(operations, signed, "chain.sqlite-wal")
    checkpoint = _first_after(operations, saving, "chain.sqlite")
    promised = _last(operations, "truncate", "journal.sqlite-journal")
    voting = _captured(seed, "voting", ("chain.sqlite-wal",), saving)
    found = [
        _stopped(voting),
        voting,
        _captured(seed, "signing", ("guard.db", "guard.db-journal"), signed),
        _captured(seed, "deciding", ("chain.sqlite-wal",), checkpoint - 1),
        _captured(seed, "merging", ("chain.sqlite-wal",), checkpoint + 1),
        _captured(seed, "promising", ("journal.sqlite", "journal.sqlite-journal"), promised),
    ]
    return {home.name: home for home in found}
