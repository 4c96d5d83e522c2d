"""A node that is new to an old network: it names a block that it trusts, and joins by a snapshot from there."""

from __future__ import annotations

import time
from pathlib import Path

from msgspec.structs import replace
from test_node_process import KEY, OTHER, Home, genesis

from deepshard.consensus.types import Block
from deepshard.disk.chain import ChainStore
from deepshard.encoding import decode
from deepshard.ledger.onion import OnionChain
from deepshard.limits import BLOCK_BYTES_MAX
from deepshard.primitives import tagged_hash
from deepshard.services.executor import SNAPSHOT_BLOCKS
from deepshard.testing.chain_history import grow_chain

DAY_MS = 24 * 3600 * 1000
HEIGHT = 120


def test_an_old_network_is_joined_from_a_block_that_a_person_names(tmp_path: Path) -> None:
    params = replace(genesis().params, epoch_blocks=SNAPSHOT_BLOCKS)
    network = replace(genesis(), params=params, time_ms=time.time_ns() // 1_000_000 - 9 * DAY_MS)
    ours, theirs = Home(tmp_path / "a", KEY, network), Home(tmp_path / "b", OTHER, network)
    onions = {KEY.address: OnionChain(tagged_hash("onion seed", KEY.seed))}
    grow_chain(ours.home, network, [KEY], onions, height=HEIGHT, interval_ms=9 * DAY_MS // (HEIGHT + 1))
    store = ChainStore(ours.home / "chain.sqlite", genesis_hash=network.hash())
    stored = store.block(HEIGHT - 5)
    store.close()
    assert stored is not None
    block_id = decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header.block_id()
    with ours.running() as validator:
        listen = validator.wait_for("node.ready")["listen"]
        # Genesis is too old to go on from: without the name, every block would be executed.
        named = f"{HEIGHT - 5}:{block_id.hex()}"
        with theirs.running(roles="informant", peers=listen, snapshot_gap="60", trust=named) as node:
            height = node.wait_for("join.installed")["height"]
            assert height >= 100
            assert height % SNAPSHOT_BLOCKS == 0
