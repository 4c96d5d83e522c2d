"""Wiring: builds the services a node's roles ask for and connects them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from deepshard.actors import Supervisor
from deepshard.compute.client import ComputeClient
from deepshard.consensus.types import Block, CommitCertificate
from deepshard.disk.chain import ChainStore
from deepshard.disk.chunks import ChunkStore
from deepshard.disk.evidence import EvidenceFolder
from deepshard.disk.home import JOURNAL_NAME, open_home
from deepshard.disk.journal import Journal
from deepshard.encoding import decode
from deepshard.errors import UsageError
from deepshard.identity import SecretKey
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis
from deepshard.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX, MIB
from deepshard.net.network import Network
from deepshard.net.types import NetworkEvent
from deepshard.node.backend import NodeBackend
from deepshard.node.settings import Settings
from deepshard.primitives import parse_amount, parse_block_reference, tagged_hash
from deepshard.services.accountability import Accusations, EvidenceLocker, Reporter
from deepshard.services.attack_reports import AttackReports
from deepshard.services.attendance import Attendance
from deepshard.services.auditor import Auditor
from deepshard.services.catching_up import SnapshotPolicy
from deepshard.services.chain import ChainService
from deepshard.services.curator import Curator
from deepshard.services.executor import snapshot_interval
from deepshard.services.inference import Inference
from deepshard.services.keeper import Keeper
from deepshard.services.light import LightClient
from deepshard.services.light_server import LightServer
from deepshard.services.pacing import Pacing
from deepshard.services.placing import Placements
from deepshard.services.router import Put, Router
from deepshard.services.scorer import Scorer
from deepshard.services.scrubber import Scrubber
from deepshard.services.shard_map import ShardMapper
from deepshard.services.shards import ShardExchange
from deepshard.services.shards_disk import DiskThreads
from deepshard.services.snapshot_server import SnapshotServer
from deepshard.services.trainer import Trainer
from deepshard.services.view import ChainView
from deepshard.services.wallet import Wallet
from deepshard.services.weights import WeightsRegistry
from deepshard.wire import messages as wire

WORKER_IDLE_S = 300.0
"""An idle worker holds no model but its libraries, some 300 MiB; starting one costs 5 s of a core."""
_EXCHANGE_KINDS: tuple[type[wire.Message], ...] = (
    wire.HaveRequest,
    wire.HaveReply,
    wire.BlobRequest,
    wire.BlobReply,
    wire.RangeRequest,
    wire.RangeReply,
)
_CHAIN_KINDS: tuple[type[wire.Message], ...] = (
    wire.Status,
    wire.BlockProposal,
    wire.ProofOfLock,
    wire.Votes,
    wire.Transactions,
    wire.Graft,
    wire.Prune,
    wire.IHave,
    wire.IWant,
    wire.IDontWant,
    wire.BlocksRequest,
    wire.Blocks,
    wire.Headers,
    wire.Snapshots,
    wire.SnapshotChunk,
)
_LIGHT_REQUESTS: tuple[type[wire.Message], ...] = (wire.HeadersRequest, wire.ProofRequest)
_SNAPSHOT_REQUESTS: tuple[type[wire.Message], ...] = (wire.SnapshotsRequest, wire.SnapshotChunkRequest)
_LIGHT_KINDS: tuple[type[wire.Message], ...] = (
    wire.Status,
    wire.Headers,
    wire.ProofReply,
    wire.LightAttackReport,
    wire.Transactions,
    wire.Votes,
    wire.ProofOfLock,
    wire.BlockProposal,
    wire.Graft,
    wire.Prune,
    wire.IHave,
    wire.IWant,
    wire.IDontWant,
)


class Node:
    """Everything one node runs. Full nodes execute the chain; a node whose only role is inference is a light client."""

    def __init__(
        self,
        settings: Settings,
        home: Path,
        key: SecretKey,
        genesis: Genesis,
        *,
        extra_texts: tuple[str, ...],
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._genesis = genesis
        self._key = key
        self._extra_texts = extra_texts
        roles = settings.roles
        named = parse_block_reference(settings.trust) if settings.trust else None
        self.network = Network(
            key=key,
            chain_id=genesis.chain_id,
            genesis_hash=genesis.hash(),
            roles=roles,
            listen=settings.listen,
            dial=settings.peers,
            advertise=settings.advertise or None,
        )
        self.chunks = ChunkStore(home / "chunks")
        self._supervisor = Supervisor()
        evidence = self._evidence = EvidenceFolder(home / "evidence")
        self._now_ms = now_ms
        self._store: ChainStore | None = None
        self._view: ChainView | None = None
        self._light: LightClient | None = None
        self._locker: EvidenceLocker | None = None
        self._chain: ChainService | None = None
        self._salt_seed = tagged_hash("salt seed", key.seed)
        self._compute = ComputeClient(
            threads=settings.threads or os.cpu_count() or 1,
            leases=settings.leases,
            idle_s=WORKER_IDLE_S,
            log_path=home / "compute.log",
        )
        self.registry = WeightsRegistry(lambda: self.exchange, lambda: None if self._view is None else self._view.state)
        self.exchange = ShardExchange(
            network=self.network,
            store=self.chunks,
            may_fetch=self.registry.may_fetch,
            salt=key.public,
            upload_bytes_per_s=settings.upload_rate * MIB,
            download_bytes_per_s=settings.download_rate * MIB,
        )
        if roles == ("inference",):
            self._journal = Journal(home / JOURNAL_NAME)
            self._light = LightClient(
                genesis=genesis,
                evidence=evidence,
                network=self.network,
                journal=self._journal,
                now_ms=now_ms,
                trust=named,
            )
            self._light.check()
            self._wallet = Wallet(key, genesis.chain_id, self._light, journal=self._journal)
        else:
            self._journal, self._store = open_home(home, genesis_hash=genesis.hash())
            if named is not None:
                _check_named(home, self._store, *named)
            self._view = ChainView(genesis_state(genesis), None)
            self._locker = EvidenceLocker(self._view, self._journal, files=evidence)
            self._chain = ChainService(
                genesis=genesis,
                store=self._store,
                view=self._view,
                network=self.network,
                key=key,
                onion=OnionChain(tagged_hash("onion seed", key.seed)) if "validator" in roles else None,
                pacing=_pacing(settings),
                now_ms=now_ms,
                snapshots=SnapshotPolicy(gap_blocks=settings.snapshot_gap_blocks, named=named),
                evidence=self._locker,
            )
            self._wallet = Wallet(key, genesis.chain_id, self._chain, journal=self._journal)
        self._curator: Curator | None = None
        self._keeper: Keeper | None = None
        self._scrubber: Scrubber | None = None
        self._mapper: ShardMapper | None = None
        self._attendance = Attendance(self._signers)
        self._placements = Placements(DiskThreads(1))
        self._inference: Inference | None = None
        self._add_core_services()
        self._add_roles()
        self.backend = NodeBackend(
            settings=settings,
            genesis=genesis,
            network=self.network,
            wallet=self._wallet,
            chunks=self.chunks,
            store=self._store,
            view=self._view,
            light=self._light,
            curator=self._curator,
            keeper=self._keeper,
            scrubber=self._scrubber,
            mapper=self._mapper,
            inference=self._inference,
            locker=self._locker,
        )

    async def run(self) -> None:
        """Run every service but the network, supervised."""
        await self._supervisor.run()

    def close(self) -> None:
        """Close files."""
        self._journal.close()
        if self._store is not None:
            self._store.close()

    def _add_core_services(self) -> None:
        routes: dict[type[wire.Message], Put] = {}
        listeners: list[Put] = [self.exchange.mailbox.put]
        routes |= dict.fromkeys(_EXCHANGE_KINDS, self.exchange.mailbox.put)
        if self._chain is not None:
            assert self._view is not None
            assert self._store is not None
            listeners.append(_narrow(self._chain.mailbox.put))
            routes |= dict.fromkeys(_CHAIN_KINDS, _narrow(self._chain.mailbox.put))
            server = LightServer(view=self._view, store=self._store, network=self.network)
            routes |= dict.fromkeys(_LIGHT_REQUESTS, _narrow(server.mailbox.put))
            self._supervisor.add("chain", self._chain.run)
            interval = snapshot_interval(self._genesis.params)
            snapshots = SnapshotServer(view=self._view, store=self._store, network=self.network, interval=interval)
            routes |= dict.fromkeys(_SNAPSHOT_REQUESTS, _narrow(snapshots.mailbox.put))
            assert self._locker is not None
            reports = AttackReports(
                genesis=self._genesis,
                store=self._store,
                network=self.network,
                evidence=Accusations(self._genesis.chain_id, self._evidence, self._locker),
                now_ms=self._now_ms,
            )
            routes[wire.LightAttackReport] = _narrow(reports.mailbox.put)
            self._supervisor.add("attack-reports", reports.run)
            self._supervisor.add("light-server", server.run)
            self._supervisor.add("snapshot-server", snapshots.run)
        if self._light is not None:
            listeners.append(_narrow(self._light.mailbox.put))
            routes |= dict.fromkeys(_LIGHT_KINDS, _narrow(self._light.mailbox.put))
            self._supervisor.add("light", self._light.run)
        router = Router(self.network, self.network.events, routes, listeners)
        self._supervisor.add("router", router.run)
        self._supervisor.add("shards", self.exchange.run)
        self._supervisor.add("wallet", self._wallet.run)
        self._supervisor.add("compute", self._compute.run)

    def _add_roles(self) -> None:
        roles, view = self._settings.roles, self._view
        if "inference" in roles:
            reader = self._light
            if reader is None:
                raise UsageError(
                    "the inference role runs as a light client of its own: give it a node (and home) of its own"
                )
            self._inference = Inference(
                reader=reader,
                wallet=self._wallet,
                registry=self.registry,
                compute=self._compute,
                store=self.chunks,
                params=self._genesis.params,
            )
            self._supervisor.add("inference", self._inference.run)
        if view is None:
            return
        self._mapper = ShardMapper(
            view=view,
            registry=self.registry,
            placements=self._placements,
            attendance=self._attendance,
            network=self.network,
            address=self._key.address,
        )
        if "validator" in roles:
            self._add_validator(view)
        if "trainer" in roles:
            trainer = Trainer(
                view=view,
                wallet=self._wallet,
                exchange=self.exchange,
                registry=self.registry,
                compute=self._compute,
                store=self.chunks,
                journal=self._journal,
                salt_seed=self._salt_seed,
                stake=parse_amount(self._settings.trainer_stake),
                micro_batch=self._settings.micro_batch,
                extra_texts=self._extra_texts,
            )
            self._supervisor.add("trainer", trainer.run)

    def _signers(self, height: int) -> list[bytes]:
        """Addresses in the certificate of a block that this node has."""
        stored = None if self._store is None else self._store.block(height)
        if stored is None:
            return []
        certificate = decode(stored.certificate, CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX)
        return [entry.validator for entry in certificate.signatures]

    def _add_validator(self, view: ChainView) -> None:
        memory = round(self._settings.scoring_memory * MIB)
        self._curator = Curator(
            view=view,
            wallet=self._wallet,
            exchange=self.exchange,
            registry=self.registry,
            compute=self._compute,
            store=self.chunks,
            journal=self._journal,
            salt_seed=self._salt_seed,
            scoring=self._settings.scoring,
            memory_bytes=memory,
        )
        self._keeper = Keeper(
            view=view,
            exchange=self.exchange,
            registry=self.registry,
            store=self.chunks,
            address=self._key.address,
            attendance=self._attendance,
            placements=self._placements,
            peers=lambda: [peer.address for peer in self.network.peers()],
        )
        scorer = Scorer(
            view=view,
            wallet=self._wallet,
            exchange=self.exchange,
            registry=self.registry,
            compute=self._compute,
            store=self.chunks,
            scoring=self._settings.scoring,
            memory_bytes=memory,
        )
        assert self._locker is not None
        reporter = Reporter(view=view, wallet=self._wallet, locker=self._locker)
        self._supervisor.add("accountability", reporter.run)
        self._supervisor.add("curator", self._curator.run)
        self._supervisor.add("keeper", self._keeper.run)
        self._scrubber = Scrubber(self.chunks, self.exchange.repair, first=os.urandom(32))
        self._supervisor.add("scrubber", self._scrubber.run)
        self._supervisor.add("scorer", scorer.run)
        auditor = Auditor(
            view=view, wallet=self._wallet, registry=self.registry, store=self.chunks, repair=self.exchange.repair
        )
        self._supervisor.add("auditor", auditor.run)


def _check_named(home: Path, store: ChainStore, height: int, block_id: bytes) -> None:
    stored = store.block(height)
    if stored is None:
        return
    own = decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header.block_id()
    if own != block_id:
        raise UsageError(
            f"--trust names {block_id.hex()} at height {height}, and the chain in {home} has {own.hex()} "
            "there: one of the two is of another history. Ask again which block is right; if it is the one named, move "
            "chain.sqlite away (never guard.db), and the node joins the network again"
        )


def _pacing(settings: Settings) -> Pacing:
    return Pacing(
        block_interval_s=settings.block_interval_ms / 1000,
        empty_block_interval_s=settings.empty_block_interval_ms / 1000,
        propose_timeout_s=settings.propose_timeout_ms / 1000,
        vote_timeout_s=settings.vote_timeout_ms / 1000,
    )


def _narrow(put: Callable[..., object]) -> Put:
    """The routes decide which events a mailbox gets; its own type lists only those."""

    async def forward(event: NetworkEvent) -> None:
        await put(event)  # type: ignore[misc]

    return forward
