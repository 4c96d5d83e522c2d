"""What a validator answers from its files, question by question: to compare before and after damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NoReturn

import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from deepshard.consensus.types import Block, SafetyState, Step
from deepshard.disk.chain import ChainStore, NewReceipt, StoredBlock
from deepshard.disk.guard import Signed
from deepshard.disk.home import open_home
from deepshard.disk.input_log import LoggedInput, LoggedKind
from deepshard.disk.journal import Journal
from deepshard.encoding import decode
from deepshard.errors import LocalError, UsageError
from deepshard.ledger.genesis import genesis_state
from deepshard.limits import BLOCK_BYTES_MAX
from deepshard.primitives import content_digest
from deepshard.services.chain import ChainService
from deepshard.services.pacing import Pacing
from deepshard.services.view import ChainView
from deepshard.services.wallet import IN_FLIGHT
from deepshard.testing.durability.homes import FOLDER, HEIGHT, Home, Image
from deepshard.testing.fault_disk import FaultDisk
from deepshard.testing.memory_network import MemoryNetwork
from deepshard.testing.simulate.plan import chance

REPORTS: Final = frozenset(
    {"snapshot.damaged", "consensus.log_damaged", "consensus.block_missing", "chain.missing", "journal.missing"}
)
"""Events of the log that tell a person about damage that is made good."""
_ABOVE: Final = HEIGHT + 1000
_WRITTEN: Final = 3
"""Blocks that are written to see whether the files still take them."""


class Refusal(str):
    """Why a question isn't answered, in one line."""

    __slots__ = ()


@dataclass(slots=True)
class Answers:
    """What is answered.

    Attributes:
        facts: what must be as it was, or be refused.
        helps: what may be lost where that is reported, since the node does without: snapshots, blocks and votes of
            the height being decided.
        spares: what may be lost without a word: each holds what other nodes or later blocks give again.
        reports: events of the log.
    """

    facts: dict[str, object] = field(default_factory=dict)
    helps: dict[str, object] = field(default_factory=dict)
    spares: dict[str, object] = field(default_factory=dict)
    reports: list[str] = field(default_factory=list)

    def refused(self) -> dict[str, Refusal]:
        """Questions that are refused."""
        answers = self.facts | self.helps | self.spares
        return {name: value for name, value in answers.items() if isinstance(value, Refusal)}

    def invents(self, versions: Sequence[Answers]) -> list[str]:
        """Spares that have what none of these versions has."""
        return [
            name
            for name, kept in self.spares.items()
            if isinstance(kept, frozenset) and not any(kept <= _kept(version.spares[name]) for version in versions)
        ]


def _kept(spare: object) -> frozenset[object]:
    return spare if isinstance(spare, frozenset) else frozenset()


@contextmanager
def hearing(reports: list[str]) -> Iterator[None]:
    """Collect the names of the log's events, which go nowhere else."""

    def hear(_: Any, __: str, event: MutableMapping[str, Any]) -> NoReturn:  # noqa: ANN401
        reports.append(event["event"])
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[hear], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


def disk_of(image: Image) -> FaultDisk:
    """A disk that holds these files."""
    return FaultDisk(chance("rot"), image)


@contextmanager
def opened(home: Home, disk: FaultDisk) -> Iterator[tuple[Journal, ChainStore]]:
    """The files of a home on a disk.

    Raises:
        LocalError, UsageError: they are refused.
    """
    journal, store = open_home(FOLDER, genesis_hash=home.genesis.hash(), files=disk)
    try:
        yield journal, store
    finally:
        store.close()
        journal.close()


def ask(home: Home, journal: Journal, store: ChainStore) -> Answers:
    """Ask everything that nodes ask their files; each question may be refused by itself."""
    deciding = store.height() + 1
    facts: dict[str, Callable[[], object]] = {
        "height": store.height,
        "base": lambda: store.base,
        "receipts": lambda: store.receipts(after=0),
        "receipts of the treasury": lambda: store.receipts(account=bytes(20)),
        "receipts of the victim": lambda: store.receipts(account=home.key.address),
        "receipts about nothing": lambda: store.receipts(subject=bytes(32)),
        "safety": store.guard.safety,
        "signed": lambda: [store.guard.signed(at) for at in (HEIGHT, HEIGHT + 1, _ABOVE)],
        "in flight": lambda: journal.get(IN_FLIGHT),
        "promise": lambda: journal.get("sweep"),
    }
    helps: dict[str, Callable[[], object]] = {
        "snapshot": store.snapshot,
        "pending blocks": lambda: store.pending_blocks(deciding),
        "log": lambda: (store.log.entries(deciding), store.guard.logged(deciding)),
    }
    spares: dict[str, Callable[[], object]] = {
        "kept snapshots": lambda: frozenset(_kept_snapshots(store)),
        "parts": lambda: frozenset(store.parts(bytes(32))),
    }
    return Answers(
        {name: _answer(question) for name, question in facts.items()} | _blocks(store),
        {name: _answer(question) for name, question in helps.items()},
        {name: _answer(question) for name, question in spares.items()},
    )


def _kept_snapshots(store: ChainStore) -> Iterator[tuple[int, bytes]]:
    for height in store.snapshot_heights():
        data = store.snapshot_at(height)
        if data is not None:
            yield height, data


def _blocks(store: ChainStore) -> dict[str, object]:
    heights = range(1, HEIGHT + 2 * _WRITTEN)
    try:
        found = {stored.height: stored for stored in store.blocks(1, len(heights))}
    except (LocalError, UsageError):
        return {f"block {height}": _answer(partial(store.block, height)) for height in heights}
    return {f"block {height}": found.get(height) for height in heights}


def _answer(question: Callable[[], object]) -> object:
    try:
        return question()
    except (LocalError, UsageError) as error:
        return Refusal(str(error))


def start(home: Home, store: ChainStore) -> None:
    """Start the chain service alone, up to where it waits for others; its state must be that of the last block.

    Raises:
        LocalError: it refuses.
        AssertionError: it has another state.
    """

    async def main() -> None:
        port = MemoryNetwork().join("rot", roles=("validator",))
        view = ChainView(genesis_state(home.genesis), None)
        service = ChainService(
            genesis=home.genesis,
            store=store,
            view=view,
            network=port,
            key=home.key,
            onion=home.onion,
            pacing=Pacing(),
            now_ms=lambda: home.genesis.time_ms + 10_000_000,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        stored = store.block(store.height())
        header = None if stored is None else decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header
        assert view.height == store.height(), f"it stands at height {view.height}, its files at {store.height()}"
        assert header is None or view.state.root == header.state_root, "its state isn't that of its last block"

    try:
        trio.run(main, clock=MockClock(), strict_exception_groups=True)
    except BaseExceptionGroup as group:
        leaves = [*_leaves(group)]
        raise leaves[0] from None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def write_on(journal: Journal, store: ChainStore) -> None:
    """Use the files as the next heights would: what sits on a damaged page or a damaged free list shows then.

    Raises:
        LocalError: they refuse it.
    """
    first = store.height() + 1
    for height in range(first, first + _WRITTEN):
        block_id = content_digest(b"%d" % height)
        store.save_pending_block(height, block_id, b"a pending block " * 60)
        store.log.resume(height, 0)
        store.log.note(height, LoggedInput(LoggedKind.VOTE, block_id * 3))
        store.log.flush()
        signed = Signed(_ABOVE, height, Step.PREVOTE, block_id, -1)
        store.guard.allow_and_record(signed, SafetyState(_ABOVE, height, Step.PREVOTE, -1, bytes(32), -1, bytes(32)))
        receipts = [NewReceipt("sweep", bytes(20), bytes(32), block_id)] * 2
        block = StoredBlock(height, block_id * 40, block_id, block_id * 4)
        store.save_block(block, receipts, snapshot=block_id * 100 if height == first + 1 else None)
        journal.put("sweep", block_id)


def equal_but_for_refusals(found: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    """Questions that have another answer, refused ones left out."""
    return [name for name, value in found.items() if not isinstance(value, Refusal) and value != expected[name]]
