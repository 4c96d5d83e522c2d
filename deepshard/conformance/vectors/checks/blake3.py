"""Checks of `blake3.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Check, Fields
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.ledger.sampling import Draws
from deepshard.primitives import block_hashes, content_digest, expand, tagged_hash, tree_root
from deepshard.ranges import block_count, range_proof, verify_range

_CYCLE = bytes(index % 251 for index in range(502))


def _pattern(start: int, size: int) -> bytes:
    return (_CYCLE[start : start + 251] * (size // 251 + 1))[:size]


def check(case: Fields) -> Json:
    """Do what `operation` says."""
    return _OPERATIONS[case["operation"]](case)


def _tagged_hash(case: Fields) -> Json:
    return {"digest": tagged_hash(case["tag"], *(unspell(part) for part in case["parts"]))}


def _expand(case: Fields) -> Json:
    return {"output": expand(case.data("seed"), case["tag"], case["length"])}


def _draw(case: Fields) -> Json:
    draws = Draws(case.data("seed"), case["tag"])
    drawn = [draws.below(int(bound)) for bound in case["below"]]
    # Where the stream stands shows in what it gives next.
    rest = Draws(case.data("seed"), case["tag"])
    for _ in range(case["bytes_read"] // 8):
        rest.below(2**64)
    return {"drawn": drawn, "bytes_read": case["bytes_read"] if draws.below(2**64) == rest.below(2**64) else -1}


def _content(case: Fields) -> Json:
    size = case["size"]
    data = _pattern(case.get("pattern_seed", 0), size)
    leaves = block_hashes(data)
    listed = {"leaves": leaves} if "leaves" in case else {}
    return {"blocks": block_count(size), "root": tree_root(leaves), "digest": content_digest(data), **listed}


def _range(case: Fields) -> Json:
    size, first, count = (case[name] for name in ("size", "first_block", "block_count"))
    proof = [unspell(one) for one in case["proof"]]
    data = _pattern(case["data_from"], case["data_bytes"])
    verify_range(case.data("digest"), size=size, first=first, count=count, data=data, proof=proof)
    return {"proof": range_proof(block_hashes(_pattern(0, size)), first, count)}


_OPERATIONS: dict[str, Check] = {
    "tagged_hash": _tagged_hash,
    "expand": _expand,
    "draw": _draw,
    "content": _content,
    "range": _range,
}
