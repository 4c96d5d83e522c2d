"""One simulated node: the real services over a simulated port, disk and clock, started, crashed and restarted."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import trio

from deepshard.consensus.forensics import Accusation
from deepshard.consensus.types import Header
from deepshard.disk.chain import ChainStore
from deepshard.disk.files import Connection, Files
from deepshard.disk.home import open_home
from deepshard.disk.journal import Journal
from deepshard.errors import DiskCorruption, LocalError, UsageError
from deepshard.identity import SecretKey
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis
from deepshard.ledger.state import State
from deepshard.ledger.transactions import Action
from deepshard.net.types import NetworkEvent, PeerInfo, Received
from deepshard.services.accountability import Accusations, EvidenceLocker, Held, Reporter, is_settled
from deepshard.services.attack_reports import AttackReports
from deepshard.services.catching_up import SnapshotPolicy
from deepshard.services.chain import ChainService
from deepshard.services.executor import snapshot_interval
from deepshard.services.light_server import LightServer
from deepshard.services.pacing import Pacing
from deepshard.services.snapshot_server import SnapshotServer
from deepshard.services.view import ChainView
from deepshard.services.wallet import Wallet
from deepshard.testing.fault_disk import Crash, FaultDisk, PowerLoss
from deepshard.testing.simulate.log import NODE, EventLog
from deepshard.testing.simulate.network import Network, Port
from deepshard.testing.simulate.oracle import Oracle
from deepshard.testing.simulate.plan import chance
from deepshard.wire.messages import (
    HeadersRequest,
    LightAttackReport,
    ProofRequest,
    SnapshotChunkRequest,
    SnapshotsRequest,
)

CHAIN = Path("/node/chain.sqlite")
GUARD = CHAIN.with_name("guard.db")


class MemoryFiles:
    """A disk without faults, for nodes that never restart: SQLite's own memory."""

    def connect(self, path: Path) -> Connection:  # noqa: ARG002
        """A new, empty file."""
        return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)

    def size(self, path: Path) -> int | None:  # noqa: ARG002
        """No file was there before."""
        return None


class MemoryEvidence:
    """A folder of evidence that stays in memory."""

    def __init__(self) -> None:
        self.kept: list[Accusation] = []

    def save(self, accusation: Accusation) -> int:
        """Keep a piece; how many there are."""
        self.kept.append(accusation)
        return len(self.kept)


class Surroundings(Protocol):
    """What a node needs of the world it is in."""

    genesis: Genesis
    network: Network
    log: EventLog
    oracle: Oracle
    nursery: trio.Nursery
    pacing: Pacing
    snapshots: SnapshotPolicy

    def joined(self, node: Node) -> None:
        """A node is up: it wants links."""
        ...

    def moved(self) -> None:
        """A node has decided something."""
        ...


class _View(ChainView):
    """Tells the oracle what is published."""

    def __init__(self, state: State, told: Callable[[Header, State], None]) -> None:
        super().__init__(state, None)
        self._told = told

    def publish(self, state: State, header: Header) -> None:
        super().publish(state, header)
        self._told(header, state)


class Node:
    """A node that may be down.

    Attributes:
        name: `n3`, or `n3'` for the second instance of a twin.
        refused: why its operator can't start it again, or None.
        rotted: whether bits of its disk were flipped, so that refusing to go on is right.
        clock: seconds that its clock is off, and by which share it runs too fast.
        remembers: whether its wallet keeps what is in flight in the journal, as that of a node does.
    """

    def __init__(
        self,
        world: Surroundings,
        name: str,
        number: int,
        key: SecretKey,
        onion: OnionChain,
        *,
        honest: bool,
        disk: bool,
    ) -> None:
        self.name, self.number, self.key, self.honest = name, number, key, honest
        self.evidence = MemoryEvidence()
        self.port: Port | None = None
        self.view: ChainView | None = None
        self.chain: ChainService | None = None
        self.locker: EvidenceLocker | None = None
        self.refused: str | None = None
        self.rotted = self.remembers = False
        self.clock = (0.0, 0.0)
        self.rewrite: Callable[[Port, object], object] | None = None
        self.files: Files = FaultDisk(chance(f"disk {world.genesis.chain_id} {name}")) if disk else MemoryFiles()
        self._world, self._onion = world, onion
        self._crash: Crash | None = None
        self._scope = trio.CancelScope()
        self._tasks: trio.Nursery | None = None
        self._wallet: Wallet | None = None
        self._stopped = trio.Event()
        self._rng = chance(f"rot {world.genesis.chain_id} {name}")

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self.port is not None

    @property
    def unsettled(self) -> list[Held]:
        """Evidence that it holds and, as an active validator, ought to bring on chain."""
        if self.locker is None or self.view is None:
            return []
        state = self.view.state
        if all(address != self.key.address for address, _, _ in state.active_validators()):
            return []
        return [one for one in self.locker if not is_settled(state, one.offence)]

    @property
    def height(self) -> int:
        """Height of its chain; 0 while it is down."""
        return 0 if self.view is None else self.view.height

    def now_ms(self) -> int:
        """What its clock shows."""
        offset, drift = self.clock
        return self._world.genesis.time_ms + 1 + int((trio.current_time() * (1 + drift) + offset) * 1000)

    # -- up and down --------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start it from its disk; what stands in the way is its own fault (a violation) or the disk's."""
        if self.is_up or self.refused is not None:
            return
        token = NODE.set(self.name)
        try:
            self._boot()
        finally:
            NODE.reset(token)

    def _boot(self) -> None:
        world = self._world
        try:
            journal, store = open_home(CHAIN.parent, genesis_hash=world.genesis.hash(), files=self.files)
        except PowerLoss:
            self._settle()
            return
        except (LocalError, UsageError) as error:
            self._refuse(error)
            return
        if self.honest and not self.rotted:
            world.oracle.restarted(self.name, store.height())
        info = PeerInfo(self.key.public, self.key.address, ("validator",), f"{self.name}:0", outbound=True)
        port = self.port = Port(world.network, self.name, self.number, info)
        view = self.view = _View(genesis_state(world.genesis), self._published)
        locker = self.locker = EvidenceLocker(view, journal, files=self.evidence)
        chain = self.chain = ChainService(
            genesis=world.genesis,
            store=store,
            view=view,
            network=port,
            key=self.key,
            onion=self._onion,
            pacing=world.pacing,
            now_ms=self.now_ms,
            snapshots=world.snapshots,
            evidence=locker,
        )
        self._wallet = Wallet(self.key, world.genesis.chain_id, chain, journal=journal if self.remembers else None)
        reporter = Reporter(view=view, wallet=self._wallet, locker=locker)
        light = LightServer(view=view, store=store, network=port)
        snapshots = SnapshotServer(
            view=view, store=store, network=port, interval=snapshot_interval(world.genesis.params)
        )

        reports = AttackReports(
            genesis=world.genesis,
            store=store,
            network=port,
            evidence=Accusations(world.genesis.chain_id, self.evidence, locker),
            now_ms=self.now_ms,
        )

        def take(event: NetworkEvent) -> bool:
            if isinstance(event, Received):
                if self.honest:
                    world.oracle.heard(event.message)
                if isinstance(event.message, HeadersRequest | ProofRequest):
                    return light.mailbox.offer(event)
                if isinstance(event.message, SnapshotsRequest | SnapshotChunkRequest):
                    return snapshots.mailbox.offer(event)
                if isinstance(event.message, LightAttackReport):
                    return reports.mailbox.offer(event)
            return chain.mailbox.offer(event)

        port.take = take
        port.rewrite = self.rewrite  # type: ignore[assignment]  # set by the world, of this type
        if self.honest:
            port.on_send = lambda _, message: world.oracle.left(
                self.name, self.key.address, message, trio.current_time()
            )
        self._scope, self._stopped = trio.CancelScope(), trio.Event()
        world.log.add("up", self.name, height=store.height())
        services = (chain.run, self._wallet.run, reporter.run, light.run, snapshots.run, reports.run)
        world.nursery.start_soon(self._live, (store, journal), services)
        world.joined(self)

    def _published(self, header: Header, state: State) -> None:
        if self.honest:
            self._world.oracle.decided(self.name, header, state, trio.current_time())
        self._world.moved()

    async def _live(self, files: tuple[ChainStore, Journal], services: tuple[Callable[[], object], ...]) -> None:
        NODE.set(self.name)
        failure: Exception | None = None
        try:
            with self._scope:
                async with trio.open_nursery() as self._tasks:
                    for service in services:
                        self._tasks.start_soon(service)  # type: ignore[arg-type]  # each is an async function
        except* Exception as group:  # noqa: BLE001  # judged below; there may be a Cancelled beside it
            failure = next(_leaves(group))
        finally:
            port, self.port, self.view, self.chain, self._tasks = self.port, None, None, None, None
            self.locker = None
            assert port is not None
            port.close()
            self._world.log.add("down", self.name)
            if isinstance(self.files, FaultDisk):
                self.files.crash(self._crash or Crash.KEPT)  # whatever a dying connection still does goes nowhere
            for file in files:
                with suppress(LocalError, PowerLoss):
                    file.close()
            if isinstance(self.files, FaultDisk):
                self.files.reopen()
            self._crash = None
            self._stopped.set()
        if isinstance(failure, LocalError):
            self._refuse(failure)
        elif failure is not None and not isinstance(failure, PowerLoss) and self.honest:
            self._world.oracle.fail(f"{self.name} ended with {describe(failure)}")

    def _settle(self) -> None:
        """The power went while it started."""
        assert isinstance(self.files, FaultDisk)
        self.files.crash(self._crash or Crash.KEPT)
        self.files.reopen()
        self._crash = None

    def _refuse(self, error: Exception) -> None:
        """It says that it can't go on. Right, if its disk was damaged; what its operator does depends on the file."""
        self._world.log.add("refused", self.name, error=str(error)[:300])
        if not self.rotted:
            if self.honest:
                self._world.oracle.fail(f"{self.name} refuses its undamaged disk: {error}")
            self.refused = str(error)
            return
        self._world.log.seen["bit-rot.refused"] += 1
        if not isinstance(error, DiskCorruption) or str(GUARD) in str(error) or not isinstance(self.files, FaultDisk):
            self.refused = str(error)  # without its guard it must not sign again
            return
        self.wipe(keep_guard=True)
        self._world.oracle.emptied(self.name)
        self.boot()

    async def kill(self, mode: Crash | None) -> None:
        """End it: by a power loss, or as a kill would (None)."""
        if not self.is_up:
            return
        self._crash = mode
        self._scope.cancel()
        await self._stopped.wait()

    async def wait_down(self) -> None:
        """Wait until it is down."""
        if self.is_up:
            await self._stopped.wait()

    def lose_power_after(self, operations: int, mode: Crash) -> None:
        """Let the power go at a later operation of the disk."""
        assert isinstance(self.files, FaultDisk)
        self._crash = mode
        self.files.crash_at = self.files.operations + operations

    def wipe(self, *, keep_guard: bool) -> None:
        """Replace its disk by an empty one, or one with nothing but the guard; it must be down."""
        assert isinstance(self.files, FaultDisk)
        assert not self.is_up
        kept = {path: data for path, data in self.files.files().items() if keep_guard and path.name.startswith("guard")}
        self.files = FaultDisk(chance(f"disk {self._world.genesis.chain_id} {self.name} again"), kept)

    def rot(self, name: str, bits: int) -> None:
        """Flip bits of a file."""
        assert isinstance(self.files, FaultDisk)
        for path, data in self.files.files().items():
            if path.name == name and data:
                self.rotted = True
                for _ in range(bits):
                    self.files.flip(path, self._rng.randrange(len(data)), self._rng.randrange(8))

    # -- work ---------------------------------------------------------------------------------------------------------

    def submit(self, action: Action) -> None:
        """Let its wallet send something, as long as it is up."""
        if self._tasks is not None and self._wallet is not None:
            self._tasks.start_soon(self._send, self._wallet, action)

    async def _send(self, wallet: Wallet, action: Action) -> None:
        name = type(action).__name__.lower()
        try:
            await wallet.send(action)
        except (UsageError, LocalError) as error:
            self._world.log.add("not included", action=name, error=str(error)[:200])
        else:
            self._world.log.seen[f"work.{name}"] += 1
            self._world.log.add("included", action=name)

    @property
    def onion_tip(self) -> bytes:
        """What it bonds with."""
        return self._onion.tip


def describe(error: BaseException) -> str:
    """Kind and text of an error, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{where}: {error}"


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
