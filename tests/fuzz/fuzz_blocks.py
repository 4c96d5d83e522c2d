"""Blocks: decoded, and validated as the successor of a block that the input chooses.

With the high bit of the first byte set, the harness mends what a fuzzer can't: hashes, roots and the certificate.
"""

from __future__ import annotations

from typing import Final

from harness import Harness
from msgspec.structs import replace
from samples import CHAIN, GENESIS_TIP, START_MS, VALIDATORS, certify, chain_of

from deepshard.consensus.blocks import tip_of, validate_block
from deepshard.consensus.certificates import certificate_hash
from deepshard.consensus.types import Block
from deepshard.encoding import decode, encode
from deepshard.limits import BLOCK_BYTES_MAX
from deepshard.merkle import merkle_root

BLOCKS: Final = chain_of(3)
TIPS: Final = (GENESIS_TIP, *(tip_of(block.header, VALIDATORS) for block in BLOCKS))
MEND: Final = 0x80


def check(data: bytes) -> None:
    if not data:
        return
    place = data[0] & 3
    parent = TIPS[place]
    block = decode(data[1:], Block, bytes_max=BLOCK_BYTES_MAX)
    if data[0] & MEND:
        last_commit = None if block.last_commit is None or not place else certify(BLOCKS[place - 1].header)
        header = replace(
            block.header,
            parent_id=parent.block_id,
            transactions_root=merkle_root(block.transactions),
            last_commit_hash=certificate_hash(last_commit),
            validators_hash=VALIDATORS.hash(),
        )
        block = Block(header, block.transactions, last_commit)
    limit = START_MS + 100_000 if data[0] & 4 else None
    validate_block(block, chain_id=CHAIN, parent=parent, validators=VALIDATORS, time_ms_max=limit)


def seeds() -> dict[str, bytes]:
    plain = {f"block-{place + 1}": bytes((place,)) + encode(block) for place, block in enumerate(BLOCKS)}
    mended = {f"mended-{place + 1}": bytes((place | 0x84,)) + encode(block) for place, block in enumerate(BLOCKS)}
    return plain | mended


HARNESS: Final = Harness(check, seeds, prefix_bytes=1, shape="record")
