"""A made-up chain whose validators change, for the vectors of blocks and of light clients."""

from __future__ import annotations

from functools import cache
from typing import Final

from deepshard.conformance.vectors.document import digest_of
from deepshard.conformance.vectors.generate.network import CHAIN, members, signed_header
from deepshard.consensus.blocks import ChainTip, build_header, genesis_tip, tip_of
from deepshard.consensus.light import LightBlock
from deepshard.consensus.types import Block, CommitCertificate, Header
from deepshard.consensus.validators import ValidatorSet

GENESIS: Final = digest_of("genesis")
START_MS: Final = 1_793_000_000_000
NOW_MS: Final = START_MS + 60_000
PERIOD_MS: Final = 3_600_000
HEIGHTS: Final = 8
TRANSACTIONS: Final = (b"one", b"two", b"")


@cache
def set_of(height: int) -> ValidatorSet:
    """Four validators of power 10: every second height the first leaves and another comes."""
    return members(*([0] * (height // 2)), 10, 10, 10, 10)


def next_header(
    tip: ChainTip, last: CommitCertificate | None, transactions: tuple[bytes, ...] = TRANSACTIONS
) -> Header:
    """A header that fits on `tip`."""
    height = tip.height + 1
    validators = set_of(height)
    return build_header(
        chain_id=CHAIN,
        parent=tip,
        now_ms=START_MS + 1000 * height,
        proposer=validators.validators[0].address,
        last_commit=last,
        transactions=transactions,
        state_root=digest_of(f"state {height}"),
        receipts_root=digest_of(f"receipts {height}"),
        validators=validators,
        next_validators_hash=set_of(height + 1).hash(),
        manifest=digest_of("manifest"),
        onion_preimage=digest_of(f"onion {height}"),
    )


@cache
def blocks() -> tuple[tuple[ChainTip, Block, CommitCertificate], ...]:
    """Each height's parent, block and certificate."""
    tip, last = genesis_tip(GENESIS, START_MS, set_of(1)), None
    made: list[tuple[ChainTip, Block, CommitCertificate]] = []
    for height in range(1, HEIGHTS + 1):
        header = next_header(tip, last)
        block = Block(header, TRANSACTIONS, last)
        last = signed_header(header, set_of(height), 3)
        made.append((tip, block, last))
        tip = tip_of(header, set_of(height))
    return tuple(made)


def light_block(height: int) -> LightBlock:
    """The light block of a height."""
    _, block, certificate = blocks()[height - 1]
    return LightBlock(block.header, certificate, set_of(height))
