"""Ranges of blocks with their proofs. The data is the fuzzer's or right; a range that verifies must be right.

The first byte chooses the size of the whole, and (bit 7) whether the claimed blocks are taken from it.
"""

from __future__ import annotations

from typing import Final

from harness import Harness, Reader, chunked

from deepshard.encoding import decode, encode
from deepshard.limits import BODY_BYTES_MAX
from deepshard.primitives import CONTENT_BLOCK_BYTES, block_hashes, content_address
from deepshard.ranges import range_bytes, range_proof, verify_leaves, verify_range
from deepshard.wire.messages import BlobStatus, RangeReply

SIZES: Final = (0, 5, CONTENT_BLOCK_BYTES, 3 * CONTENT_BLOCK_BYTES + 7, 11 * CONTENT_BLOCK_BYTES)
WHOLE: Final = [bytes([number]) * size for number, size in enumerate(SIZES)]
LEAVES: Final = [block_hashes(data) for data in WHOLE]
RIGHT: Final = 0x80


def check(data: bytes) -> None:
    reader = Reader(data)
    flags, count = reader.number(), reader.number()
    whole, leaves = WHOLE[flags % len(SIZES)], LEAVES[flags % len(SIZES)]
    address = content_address(len(whole), leaves)
    reply = decode(reader.chunk(), RangeReply, bytes_max=BODY_BYTES_MAX)
    size, first = reply.size, reply.first_block
    if flags & RIGHT:
        begin = first * CONTENT_BLOCK_BYTES
        blocks = whole[begin : begin + count * CONTENT_BLOCK_BYTES]
        chosen = leaves[first : first + count]
        verify_leaves(address, size=size, first=first, leaves=chosen, proof=reply.proof)
    else:
        blocks = reader.chunk()
    verify_range(address, size=size, first=first, count=count, data=blocks, proof=reply.proof)
    assert size == len(whole)
    begin = first * CONTENT_BLOCK_BYTES
    assert blocks == whole[begin : begin + range_bytes(size, first, count)]


def seeds() -> dict[str, bytes]:
    found = {}
    for number, first, count in ((0, 0, 1), (1, 0, 1), (3, 1, 2), (3, 3, 1), (4, 5, 4), (4, 0, 11)):
        proof = range_proof(LEAVES[number], first, count)
        address = content_address(SIZES[number], LEAVES[number])
        reply = RangeReply(7, address, BlobStatus.FOUND, SIZES[number], first, proof)
        found[f"{number}-{first}-{count}"] = bytes((number | RIGHT, count)) + chunked(encode(reply))
        if number < 2:
            found[f"{number}-{first}-{count}-data"] = bytes((number, count)) + chunked(encode(reply), WHOLE[number])
    return found


HARNESS: Final = Harness(check, seeds, prefix_bytes=2, shape="chunks")
