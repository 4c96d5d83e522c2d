"""`blake3.json`: tagged hashes, expansion, draws, content addresses and range proofs (chapters 1.3 to 1.5).

The tree and its proofs are written here as the chapter words them, over the hash alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from blake3 import blake3

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, refuse

_CONTEXT: Final = "deepshard 2026-11 v1 "
_BLOCK: Final = 16_384
_TAGGED, _EXPAND, _DRAW = ("1.3/1", "1.3/2"), ("1.4/1",), ("1.4/2", "1.4/3")
_ADDRESS, _PROOF, _WALK = ("1.5/1", "1.5/2", "1.5/3", "1.5/4"), ("1.5/5", "1.5/6", "1.5/7"), ("1.5/7",)
_MALFORMED, _CORRUPT = "MalformedMessage", "CorruptRange"


def make() -> Json:
    """The file."""
    return document(
        "blake3",
        "Hashes (chapters 1.3 to 1.5): tagged hashes, expansion, draws, content addresses and their ranges.",
        [*_tagged(), *_expansions(), *_draws(), *_addresses(), *_ranges(), *_bad_ranges()],
    )


def _derived(tag: str, material: bytes, length: int = 32) -> bytes:
    return blake3(material, derive_key_context=_CONTEXT + tag).digest(length=length)


def _tagged_hash(tag: str, *parts: bytes) -> bytes:
    return _derived(tag, b"".join(len(part).to_bytes(8, "little") + part for part in parts))


def _tagged() -> Iterator[Json]:
    lists: list[tuple[str, list[bytes]]] = [
        ("vote", []),
        ("vote", [b""]),
        ("vote", [b"", b""]),
        ("vote", [b"abc"]),
        ("vote", [b"ab", b"c"]),
        ("vote", [b"a", b"bc"]),
        ("proposal", [b"abc"]),
        ("", [b"abc"]),
        ("merkle node", [digest_of("left"), digest_of("right")]),
        ("a tag with \u00fc", [bytes(range(256))]),
        ("long", [bytes(1015), b"one chunk of BLAKE3 ends within the second part"]),
    ]
    for number, (tag, parts) in enumerate(lists):
        name = f"tagged hash {number}: {tag!r}, parts of {[len(part) for part in parts]}"
        yield accept(name, _TAGGED, operation="tagged_hash", tag=tag, parts=parts, digest=_tagged_hash(tag, *parts))


def _expansions() -> Iterator[Json]:
    seed = digest_of("seed")
    for tag, data, length in (
        ("link keys", seed, 96),
        ("handshake boxes", seed, 64),
        ("link rekey", seed, 32),
        ("link rekey", seed, 1),
        ("link rekey", b"", 32),
        ("probes batch", seed + bytes(8), 200),
    ):
        name = f"expand {len(data)} bytes to {length}: {tag}"
        output = _derived(tag, data, length)
        yield accept(name, _EXPAND, operation="expand", seed=data, tag=tag, length=length, output=output)


def _draws() -> Iterator[Json]:
    bounds = [[6] * 12, [1, 2, 3, 2**16, 2**53 + 1, 2**64], [2**63 + 1] * 12, [10] * 200]
    for number, below in enumerate(bounds):
        seed = digest_of(f"draws {number}")
        drawn, read = _draw_all(seed, "data order", below)
        fields = {"seed": seed, "tag": "data order", "below": below, "drawn": drawn, "bytes_read": read}
        yield accept(f"{len(below)} draws below {below[0]}", _DRAW, operation="draw", **fields)


def _draw_all(seed: bytes, tag: str, bounds: Sequence[int]) -> tuple[list[int], int]:
    stream = b"".join(_derived(tag, seed + block.to_bytes(8, "little"), 1024) for block in range(4))
    drawn, at = [], 0
    for bound in bounds:
        while True:
            value = int.from_bytes(stream[at : at + 8], "little")
            at += 8
            if value < 2**64 - 2**64 % bound:
                break
        drawn.append(value % bound)
    return drawn, at


def pattern(size: int, seed: int = 0) -> bytes:
    """`size` bytes of the pattern: byte i is (i + seed) mod 251."""
    cycle = bytes((index + seed) % 251 for index in range(251))
    return (cycle * (size // 251 + 1))[:size]


def leaves_of(data: bytes) -> list[bytes]:
    """Hashes of the blocks."""
    count = max(1, -(-len(data) // _BLOCK))
    return [_derived("range leaf", data[block * _BLOCK : (block + 1) * _BLOCK]) for block in range(count)]


def _split(count: int) -> int:
    middle = 1
    while 2 * middle < count:
        middle *= 2
    return middle


def tree_of(hashes: Sequence[bytes]) -> bytes:
    """Root of a tree over these hashes."""
    if len(hashes) == 1:
        return hashes[0]
    middle = _split(len(hashes))
    return _tagged_hash("merkle node", tree_of(hashes[:middle]), tree_of(hashes[middle:]))


def proof_of(hashes: Sequence[bytes], first: int, count: int) -> list[bytes]:
    """The walk of 1.5/6, with `first` counted from the first of these hashes."""
    if first >= len(hashes) or first + count <= 0:
        return [tree_of(hashes)]
    if first <= 0 and first + count >= len(hashes):
        return []
    middle = _split(len(hashes))
    return proof_of(hashes[:middle], first, count) + proof_of(hashes[middle:], first - middle, count)


def address_of(size: int, hashes: Sequence[bytes]) -> bytes:
    """Content address."""
    return _tagged_hash("content", size.to_bytes(8, "little"), tree_of(hashes))


def _addresses() -> Iterator[Json]:
    sizes = [0, 1, 2, 63, 64, 65, 1023, 1024, 1025, 4096]
    sizes += [blocks * _BLOCK + more for blocks in (1, 2, 3, 4, 5, 8) for more in (-1, 0, 1)]
    sizes += [16 * _BLOCK + 7, 33 * _BLOCK, 2**20, 2**20 + 2**17 + 1]
    for size in sizes:
        hashes = leaves_of(pattern(size))
        fields = {"size": size, "blocks": len(hashes), "root": tree_of(hashes), "digest": address_of(size, hashes)}
        if len(hashes) <= 5:
            fields["leaves"] = hashes
        yield accept(f"content address of {size} bytes", _ADDRESS, operation="content", **fields)
    for name, seed in (("the pattern from 1 on", 1), ("the pattern from 250 on", 250)):
        hashes = leaves_of(pattern(100, seed))
        fields = {"size": 100, "pattern_seed": seed, "blocks": 1, "digest": address_of(100, hashes)}
        yield accept(f"content address of {name}", _ADDRESS, operation="content", root=tree_of(hashes), **fields)


def _range(size: int, first: int, count: int) -> Json:
    """A range of the pattern."""
    hashes = leaves_of(pattern(size))
    data = pattern(size)[first * _BLOCK : (first + count) * _BLOCK]
    fields: Json = {"digest": address_of(size, hashes), "size": size, "first_block": first, "block_count": count}
    fields |= {"data_from": first * _BLOCK % 251, "data_bytes": len(data), "proof": proof_of(hashes, first, count)}
    return {"operation": "range", **fields}


def _ranges() -> Iterator[Json]:
    spans = {
        0: [(0, 1)],
        1: [(0, 1)],
        _BLOCK: [(0, 1)],
        _BLOCK + 1: [(0, 1), (1, 1), (0, 2)],
        3 * _BLOCK: [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (0, 3)],
        5 * _BLOCK - 1: [(0, 1), (1, 2), (3, 2), (4, 1), (0, 5), (1, 4)],
        13 * _BLOCK + 9: [(0, 8), (8, 4), (7, 2), (12, 1), (13, 1), (5, 7), (0, 13)],
        64 * _BLOCK: [(0, 1), (31, 2), (63, 1), (0, 64), (16, 16)],
    }
    for size, ranges in spans.items():
        for first, count in ranges:
            clauses = (*_PROOF, "1.5/8") if count * _BLOCK >= size else _PROOF
            yield accept(f"{count} blocks from block {first} of {size} bytes", clauses, **_range(size, first, count))


def _bad_ranges() -> Iterator[Json]:
    size, first, count = 5 * _BLOCK - 1, 1, 2
    good = _range(size, first, count)
    proof: list[bytes] = good["proof"]
    other = digest_of("hash")
    wrong: list[tuple[str, str, Json]] = [
        ("a hash too few", _MALFORMED, {"proof": proof[:-1]}),
        ("a hash too many", _MALFORMED, {"proof": [*proof, other]}),
        ("no proof", _MALFORMED, {"proof": []}),
        ("another hash", _CORRUPT, {"proof": [other, *proof[1:]]}),
        ("the hashes in another order", _CORRUPT, {"proof": [proof[1], proof[0], *proof[2:]]}),
        ("a byte too few", _MALFORMED, {"data_bytes": 2 * _BLOCK - 1}),
        ("a byte too many", _MALFORMED, {"data_bytes": 2 * _BLOCK + 1}),
        ("other bytes", _CORRUPT, {"data_from": 1}),
        ("another address", _CORRUPT, {"digest": other}),
        ("the root for the address", _CORRUPT, {"digest": tree_of(leaves_of(pattern(size)))}),
        ("another size with as many blocks", _CORRUPT, {"size": size - 1}),
        ("a size with more blocks", _MALFORMED, {"size": size + 5 * _BLOCK}),
        ("another place of the same shape", _CORRUPT, {"first_block": 0, "block_count": 2, "proof": proof[:2]}),
        ("blocks that begin behind the end", _MALFORMED, {"first_block": 5, "block_count": 1}),
        ("blocks that end behind the end", _MALFORMED, {"first_block": 4, "block_count": 2}),
        ("no blocks", _MALFORMED, {"block_count": 0, "data_bytes": 0}),
        ("a block count of 2^31 - 1", _MALFORMED, {"block_count": 2**31 - 1}),
    ]
    for name, error, changes in wrong:
        yield refuse(f"range: {name}", _WALK, error, **{**good, **changes})
    whole = _range(2 * _BLOCK, 0, 2)
    whole["proof"] = [tree_of(leaves_of(pattern(2 * _BLOCK)))]
    yield refuse("range: the whole with its root as proof", (*_WALK, "1.5/8"), _MALFORMED, **whole)
