"""Keepers with real stores and exchanges over memory links, on a chain that the test decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from msgspec.structs import replace

from deepshard.chunk_tree import chunks_root
from deepshard.consensus.types import Header
from deepshard.disk.chunks import ChunkStore
from deepshard.encoding import encode
from deepshard.identity import SecretKey
from deepshard.ledger import BlockContext, OnionChain, execute_block, genesis_state, keys, select_transactions
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator, Params
from deepshard.ledger.records import ModelVersion, Receipt
from deepshard.ledger.state import State
from deepshard.ledger.storage import candidates_of
from deepshard.ledger.transactions import Action, sign_transaction
from deepshard.placement import place
from deepshard.primitives import UNITS_PER_TOKEN, ZERO_DIGEST, content_digest
from deepshard.services.attendance import Attendance
from deepshard.services.keeper import Keeper
from deepshard.services.placing import Placements
from deepshard.services.shards import ShardExchange
from deepshard.services.shards_disk import DiskThreads
from deepshard.services.view import ChainView
from deepshard.services.weights import WeightsRegistry
from deepshard.shards.layout import chunk_leaves, shard_keys
from deepshard.shards.manifest import Manifest, ShardEntry, TensorEntry, TensorSlice
from deepshard.shards.rules import manifest_digest, weights_root
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.testing.memory_network import MemoryNetwork, MemoryPort

CHAIN_ID = "keepers"
SHARDS = 18
SHARD_BYTES = 4096
AWAY_BLOCKS = 6
GRACE_BLOCKS = 10


def model(version: int) -> tuple[Manifest, list[bytes]]:
    """A version of the weights, nothing of which is in another."""
    chunks = [bytes([version, number]) * (SHARD_BYTES // 2) for number in range(SHARDS)]
    tensors = (TensorEntry("w", "i8", (SHARDS, SHARD_BYTES)),)
    shards = tuple(
        ShardEntry((TensorSlice(0, row, 1),), SHARD_BYTES, digest, "raw", digest, SHARD_BYTES, ZERO_DIGEST)
        for row, digest in enumerate(map(content_digest, chunks))
    )
    return Manifest(1, ZERO_DIGEST, weights_root(tensors, shards), tensors, shards, ()), chunks


@dataclass
class Node:
    key: SecretKey
    port: MemoryPort
    store: ChunkStore
    view: ChainView
    exchange: ShardExchange
    keeper: Keeper
    registry: WeightsRegistry
    attendance: Attendance

    @property
    def address(self) -> bytes:
        return self.key.address

    def held(self, version: int = 0) -> set[int]:
        """Shards that it has."""
        manifest, _ = model(version)
        return {number for number, entry in enumerate(manifest.shards) if self.store.has(entry.chunk)}

    @property
    def fetched_bytes(self) -> int:
        return sum(self.exchange.stats.fetched_bytes.values())


class Keepers:
    """Nodes `nodes`, all linked; `silent` ones sign nothing."""

    def __init__(
        self, root: Path, nursery: trio.Nursery, count: int, *, params: Params = SMALL_PARAMS, **options: Any
    ) -> None:
        self.secrets = [SecretKey(content_digest(f"keeper {number}".encode())) for number in range(count)]
        self.onions = {key.address: OnionChain(key.seed, 300) for key in self.secrets}
        stake = 1000 * UNITS_PER_TOKEN
        manifest, chunks = model(0)
        self.genesis = Genesis(
            chain_id=CHAIN_ID,
            time_ms=0,
            params=params,
            validators=tuple(GenesisValidator(key.public, stake, self.onions[key.address].tip) for key in self.secrets),
            accounts=tuple(GenesisAccount(key.address, stake) for key in self.secrets),
            manifest=manifest_digest(manifest),
            weights_root=manifest.weights_root,
            chunks_root=chunks_root(chunk_leaves([manifest])),
            shard_count=SHARDS,
            heldout=(),
            general=(),
            canaries=(),
        )
        self.state = genesis_state(self.genesis)
        self.network = MemoryNetwork()
        self.silent: set[bytes] = set()
        self.waiting: list[bytes] = []
        """Transactions for the next block, of which it takes those that are valid."""
        self._signers: dict[int, list[bytes]] = {}
        self.receipts: list[Receipt] = []
        self._nursery = nursery
        self._options = options
        placed = self.placed()
        self.nodes = [self._start(root, number, key) for number, key in enumerate(self.secrets)]
        for node in self.nodes:
            node.store.put(encode(manifest))
            for holders, chunk in zip(placed, chunks, strict=True):
                if node.address in holders:
                    node.store.put(chunk)
        self.network.connect(*(node.port.name for node in self.nodes))

    def _start(self, root: Path, number: int, key: SecretKey) -> Node:
        port = self.network.join(f"keeper {number}", public_key=key.public)
        store = ChunkStore(root / str(number))
        view = ChainView(self.state, None)
        view.caught_up = True
        registry = WeightsRegistry(lambda: exchange, lambda: view.state)
        exchange = ShardExchange(port, store, registry.may_fetch, disk_threads=0, request_timeout_s=5.0)
        attendance = Attendance(lambda height: self._signers.get(height, []), window_blocks=AWAY_BLOCKS)
        keeper = Keeper(
            view=view,
            exchange=exchange,
            registry=registry,
            store=store,
            address=key.address,
            attendance=attendance,
            placements=Placements(DiskThreads(0)),
            peers=lambda: [peer.address for peer in port.peers()],
            grace_blocks=GRACE_BLOCKS,
            disk_threads=0,
            **self._options,
        )
        for service in (exchange.run, keeper.run):
            self._nursery.start_soon(service)
        self._nursery.start_soon(port.deliver, exchange.mailbox.put)
        return Node(key, port, store, view, exchange, keeper, registry, attendance)

    def placed(self, *, without: Sequence[Node] = ()) -> list[tuple[bytes, ...]]:
        """Who should hold what, now."""
        gone = {node.address for node in without}
        able = [each for each in candidates_of(self.state) if each.address not in gone]
        return place(shard_keys(model(0)[0]), able, SMALL_PARAMS.replication)

    def assigned(self, node: Node, *, without: Sequence[Node] = ()) -> set[int]:
        return {number for number, held in enumerate(self.placed(without=without)) if node.address in held}

    def sign(self, node: Node, *actions: Action) -> list[bytes]:
        nonce = self.state.account(node.address).nonce
        return [sign_transaction(node.key, CHAIN_ID, nonce + place_, one) for place_, one in enumerate(actions)]

    def accept(self, version: int, scorers: Sequence[Node]) -> None:
        """Make a version the newest, as a training round would; those who scored it have all of it."""
        manifest, chunks = model(version)
        for scorer in scorers:
            for blob in (encode(manifest), *chunks):
                scorer.store.put(blob)
        tree = chunks_root(chunk_leaves([manifest]))
        record = ModelVersion(version, manifest_digest(manifest), manifest.weights_root, tree, SHARDS, 1, 0)
        chain = replace(self.state.chain(), version=version)
        self.state = self.state.changed({keys.model_key(version): record, keys.CHAIN: chain})

    async def blocks(self, count: int, *transactions: bytes) -> None:
        """Add blocks, the first with these transactions; all nodes see each, and come to rest."""
        for _ in range(count):
            height = self.state.chain().height + 1
            active = [each.address for each in self.state.active().validators]
            able = [address for address in active if address not in self.silent]
            proposer = able[height % len(able)]
            record = self.state.validator(proposer)
            assert record is not None
            context = BlockContext(CHAIN_ID, height, proposer, self.onions[proposer].preimage(record.onion_tip))
            chosen = select_transactions(self.state, context, self.waiting, bytes_max=1 << 20, count_max=100)
            self.waiting = [data for data in self.waiting if data not in chosen]
            result = execute_block(self.state, context, [*transactions, *chosen])
            self.state = result.state
            self.receipts += result.receipts
            transactions = ()
            self._signers[height] = able
            for node in self.nodes:
                if node.address not in self.silent:
                    node.view.publish(self.state, _header(self.state, height))
            await trio.sleep_until(trio.current_time() + 2.0)  # virtual: time for some exchanges

    async def until(self, condition: Callable[[], bool], *, blocks: int = 20) -> None:
        """Add empty blocks until something holds."""
        for _ in range(blocks):
            if condition():
                return
            await self.blocks(1)
        assert condition(), "not reached"


def _header(state: State, height: int) -> Header:
    manifest = state.current_model().manifest
    return Header(
        version=1,
        chain_id=CHAIN_ID,
        height=height,
        time_ms=height,
        parent_id=ZERO_DIGEST,
        proposer=bytes(20),
        last_commit_hash=ZERO_DIGEST,
        transactions_root=ZERO_DIGEST,
        state_root=state.root,
        receipts_root=ZERO_DIGEST,
        validators_hash=ZERO_DIGEST,
        next_validators_hash=ZERO_DIGEST,
        manifest=manifest,
        onion_preimage=ZERO_DIGEST,
    )


@asynccontextmanager
async def running(root: Path, count: int = 7, **options: Any) -> AsyncIterator[Keepers]:
    async with trio.open_nursery() as nursery:
        yield Keepers(root, nursery, count, **options)
        nursery.cancel_scope.cancel()
