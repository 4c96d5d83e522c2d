"""Light blocks in their three parts, verified sequentially and by skipping.

The first byte says from where (bit 0), and whether the harness signs the decoded header (bit 7).
"""

from __future__ import annotations

from typing import Final

from harness import Harness, Reader, chunked
from msgspec.structs import replace
from samples import CHAIN, GENESIS, START_MS, VALIDATORS, certify, chain_of

from deepshard.consensus.light import LightBlock, decode_light_block, trust_genesis, verify_sequential, verify_skipping
from deepshard.encoding import encode

NOW_MS: Final = START_MS + 60_000
PERIOD_MS: Final = 3_600_000
HEADERS: Final = [block.header for block in chain_of(4)]
START: Final = trust_genesis(CHAIN, GENESIS, START_MS, VALIDATORS)
NEXT: Final = verify_sequential(
    START, LightBlock(HEADERS[0], certify(HEADERS[0]), VALIDATORS), now_ms=NOW_MS, trusting_period_ms=PERIOD_MS
)


def check(data: bytes) -> None:
    reader = Reader(data)
    flags = reader.number()
    block = decode_light_block(reader.chunk(), reader.chunk(), reader.chunk())
    if flags & 0x80:
        header = replace(block.header, validators_hash=block.validators.hash())
        block = LightBlock(header, certify(header, flags >> 4 & 7), block.validators)
    trusted = NEXT if flags & 1 else START
    state = verify_skipping(trusted, block, now_ms=NOW_MS, trusting_period_ms=PERIOD_MS)
    assert state.height > trusted.height
    assert trusted.time_ms < state.time_ms


def seeds() -> dict[str, bytes]:
    found = {}
    for header in HEADERS:
        for flags in (0x00, 0xC1):
            parts = encode(header), encode(certify(header)), encode(VALIDATORS)
            name = f"header-{header.height}-{'resigned' if flags else 'as-is'}"
            found[name] = bytes((flags,)) + chunked(*parts)
    return found


HARNESS: Final = Harness(check, seeds, prefix_bytes=1, shape="chunks")
