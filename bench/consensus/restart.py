"""A validator with a long chain is killed and started again beside three others: seconds until it commits by votes."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import deque
from pathlib import Path
from statistics import median

from bench.wire.rows import Row
from deepshard.ledger.genesis import load_genesis
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.testing.chain_history import grow_chain

from .network import key_of, onion_of, prepare, running


def restart_rows(*, blocks: int, runs: int, validators: int = 4) -> list[Row]:
    """The row of the table."""
    keys = [key_of("validator", number) for number in range(validators)]
    with tempfile.TemporaryDirectory(prefix="bench-restart-") as name:
        folder = Path(name)
        interval_ms = SMALL_PARAMS.block_interval_ms
        nodes = prepare(folder, keys, [], age_ms=2 * blocks * interval_ms)
        genesis = load_genesis((folder / "genesis.json").read_text())
        first = nodes[0].home
        began = time.monotonic()
        onions = {key.address: onion_of(key) for key in keys}
        grow_chain(first, genesis, keys, onions, height=blocks, interval_ms=interval_ms)
        grown_s = time.monotonic() - began
        for node in nodes[1:]:
            for file in first.glob("*.sqlite*"):
                shutil.copy(file, node.home)
            for file in first.glob("guard*"):
                shutil.copy(file, node.home)
        restored, committed = [], []
        with running(nodes):
            for _ in range(runs):
                nodes[0].kill()
                deque(nodes[0].news(), maxlen=0)  # drops those of the life before
                began = time.monotonic()
                nodes[0].start()
                nodes[0].wait_for("chain.restored")
                restored.append(time.monotonic() - began)
                nodes[0].wait_for("block.committed")
                committed.append(time.monotonic() - began)
        beside = {
            "longest of the runs": max(committed),
            "of it until the chain is restored": median(restored),
            "blocks": float(blocks),
            "pause between empty blocks": 1.0,
            "to make the chain (not counted)": grown_s,
        }
    return [
        Row("restart after kill -9, until a block is decided", median(committed), "s", 5, at_least=False, beside=beside)
    ]
