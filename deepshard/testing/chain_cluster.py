"""A cluster of chain services in one process, over the in-memory network: real stores, real keys, real consensus.

With Trio's mock clock (`autojump_clock`) minutes of virtual time pass in an instant, and nothing sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from deepshard.disk.chain import ChainStore
from deepshard.disk.evidence import EvidenceFolder
from deepshard.disk.journal import Journal
from deepshard.identity import SecretKey
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis
from deepshard.net.types import NetworkEvent, Received
from deepshard.services.accountability import Accusations, EvidenceLocker, Reporter
from deepshard.services.attack_reports import AttackReports
from deepshard.services.catching_up import SnapshotPolicy
from deepshard.services.chain import ChainService
from deepshard.services.executor import snapshot_interval
from deepshard.services.light import LightClient
from deepshard.services.light_server import LightServer
from deepshard.services.pacing import Pacing
from deepshard.services.snapshot_server import SnapshotServer
from deepshard.services.view import ChainView
from deepshard.services.wallet import Wallet
from deepshard.testing.memory_network import MemoryNetwork, MemoryPort
from deepshard.wire.messages import (
    HeadersRequest,
    LightAttackReport,
    ProofRequest,
    SnapshotChunkRequest,
    SnapshotsRequest,
)


@dataclass(slots=True)
class FullNode:
    """A running full node: its services, and the scope that ends it."""

    name: str
    key: SecretKey
    port: MemoryPort
    store: ChainStore
    view: ChainView
    chain: ChainService
    wallet: Wallet
    locker: EvidenceLocker
    journal: Journal
    scope: trio.CancelScope
    stopped: trio.Event


@dataclass(slots=True)
class LightNode:
    """A running light client."""

    port: MemoryPort
    client: LightClient
    wallet: Wallet


class ChainCluster:
    """Starts, stops and restarts nodes of one network; `now_ms` is the virtual clock."""

    def __init__(
        self, genesis: Genesis, onions: Mapping[bytes, OnionChain], folder: Path, nursery: trio.Nursery
    ) -> None:
        self.genesis = genesis
        self.network = MemoryNetwork()
        self.nodes: dict[str, FullNode] = {}
        self._onions = onions
        self._folder = folder
        self._nursery = nursery
        self._generation = 0

    def now_ms(self) -> int:
        """Milliseconds of virtual time since genesis, never zero."""
        return self.genesis.time_ms + 1 + int(trio.current_time() * 1000)

    def start(
        self,
        name: str,
        key: SecretKey,
        *,
        pacing: Pacing | None = None,
        snapshots: SnapshotPolicy | None = None,
    ) -> FullNode:
        """Start a full node (a validator if it has an onion) in its folder, connected to nobody."""
        self._generation += 1
        port = self.network.join(f"{name}#{self._generation}", roles=("validator",))
        store = ChainStore(self.folder_of(name) / "chain.sqlite", genesis_hash=self.genesis.hash())
        view = ChainView(genesis_state(self.genesis), None)
        journal = Journal(self.folder_of(name) / "journal.sqlite")
        files = EvidenceFolder(self.folder_of(name) / "evidence")
        locker = EvidenceLocker(view, journal, files=files)
        chain = ChainService(
            genesis=self.genesis,
            store=store,
            view=view,
            network=port,
            key=key,
            onion=self._onions.get(key.address),
            pacing=pacing or Pacing(),
            now_ms=self.now_ms,
            snapshots=snapshots,
            evidence=locker,
        )
        wallet = Wallet(key, self.genesis.chain_id, chain)
        scope, stopped = trio.CancelScope(), trio.Event()
        node = FullNode(name, key, port, store, view, chain, wallet, locker, journal, scope, stopped)
        server = LightServer(view=view, store=store, network=port)
        interval = snapshot_interval(self.genesis.params)
        snapshot_server = SnapshotServer(view=view, store=store, network=port, interval=interval)
        reports = AttackReports(
            genesis=self.genesis,
            store=store,
            network=port,
            evidence=Accusations(self.genesis.chain_id, files, locker),
            now_ms=self.now_ms,
        )
        self.nodes[name] = node
        self._nursery.start_soon(self._live, node, server, snapshot_server, reports)
        return node

    def folder_of(self, name: str) -> Path:
        """Make and give the folder of a node."""
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    async def _live(
        self, node: FullNode, server: LightServer, snapshots: SnapshotServer, reports: AttackReports
    ) -> None:
        async def route(event: NetworkEvent) -> None:
            if isinstance(event, Received) and isinstance(event.message, HeadersRequest | ProofRequest):
                await server.mailbox.put(event)
            elif isinstance(event, Received) and isinstance(event.message, SnapshotsRequest | SnapshotChunkRequest):
                await snapshots.mailbox.put(event)
            elif isinstance(event, Received) and isinstance(event.message, LightAttackReport):
                await reports.mailbox.put(event)
            else:
                await node.chain.mailbox.put(event)

        reporter = Reporter(view=node.view, wallet=node.wallet, locker=node.locker)
        try:
            with node.scope:
                async with trio.open_nursery() as nursery:
                    for service in (
                        node.chain.run,
                        node.wallet.run,
                        reporter.run,
                        server.run,
                        snapshots.run,
                        reports.run,
                    ):
                        nursery.start_soon(service)
                    nursery.start_soon(node.port.deliver, route)
        finally:
            node.store.close()
            node.journal.close()
            node.stopped.set()

    async def stop(self, name: str) -> None:
        """End a node as a kill would: nothing it has not already written is kept."""
        node = self.nodes.pop(name)
        with suppress(KeyError):
            self.network.vanish(node.port.name)
        node.scope.cancel()
        await node.stopped.wait()

    def light(self, name: str, key: SecretKey) -> LightNode:
        """Start a light client, connected to nobody."""
        port = self.network.join(name, roles=("inference",))
        journal = Journal(self._folder / f"{name}.journal")
        client = LightClient(
            genesis=self.genesis,
            network=port,
            journal=journal,
            now_ms=self.now_ms,
            evidence=EvidenceFolder(self._folder / f"{name}.evidence"),
        )
        wallet = Wallet(key, self.genesis.chain_id, client)
        self._nursery.start_soon(client.run)
        self._nursery.start_soon(wallet.run)
        self._nursery.start_soon(port.deliver, client.mailbox.put)
        return LightNode(port, client, wallet)

    def connect(self, *nodes: FullNode | LightNode) -> None:
        """Link every two of these nodes."""
        self.network.connect(*(node.port.name for node in nodes))

    async def reach(self, height: int, nodes: Sequence[FullNode], *, within_s: float = 300.0) -> None:
        """Wait until these nodes have committed `height`, for at most so much virtual time."""
        with trio.fail_after(within_s):
            for node in nodes:
                while node.view.height < height:
                    await node.view.changed()


async def until(condition: Callable[[], bool], view: ChainView, *, within_s: float = 300.0) -> None:
    """Wait until something holds, looking again at every committed block."""
    with trio.fail_after(within_s):
        while not condition():
            await view.changed()
