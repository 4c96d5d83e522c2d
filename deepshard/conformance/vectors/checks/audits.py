"""Checks of `audits.json`: its own operations, and blocks as in `transactions.json`."""

from __future__ import annotations

from deepshard.chunk_tree import ChunkRef, ShardChunks, chunks_root
from deepshard.conformance.vectors.check import Check, Fields
from deepshard.conformance.vectors.checks.transactions import check as check_block
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.encoding import encode
from deepshard.ledger.audits import draw_shards, drawn_block


def check(case: Fields) -> Json:
    """Do what `operation` says, or execute a block."""
    return _OPERATIONS[case["operation"]](case) if "operation" in set(case) else check_block(case)


def _tree(case: Fields) -> Json:
    leaves = [
        ShardChunks(
            leaf["position"],
            unspell(leaf["key"]),
            tuple(ChunkRef(unspell(chunk["digest"]), chunk["size"]) for chunk in leaf["chunks"]),
        )
        for leaf in case["leaves"]
    ]
    return {"encoded": [encode(leaf) for leaf in leaves], "root": chunks_root(leaves)}


def _shards(case: Fields) -> Json:
    return {"shards": list(draw_shards(case.data("seed"), case["shard_count"], case["count"]))}


def _block(case: Fields) -> Json:
    return {"block": drawn_block(case.data("seed"), case["shard"], case.data("holder"), case["blocks"])}


_OPERATIONS: dict[str, Check] = {"tree": _tree, "shards": _shards, "block": _block}
