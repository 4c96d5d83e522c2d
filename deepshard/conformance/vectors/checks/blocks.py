"""Checks of `blocks.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.conformance.vectors.read import read_validators
from deepshard.consensus.blocks import ChainTip, validate_block
from deepshard.consensus.types import Block
from deepshard.encoding import decode, encode

_BYTES_MAX = 1 << 22
"""Above the bound of a block, which the rule has to find by itself."""


def check(case: Fields) -> Json:
    """Validate a block on its parent."""
    listed = case["parent"]
    parent = ChainTip(
        int(listed["height"]),
        unspell(listed["block_id"]),
        int(listed["time_ms"]),
        read_validators(listed["validators"]),
        unspell(listed["next_validators_hash"]),
    )
    block = decode(case.data("encoded"), Block, bytes_max=_BYTES_MAX)
    validators = read_validators(case["validators"])
    validate_block(block, chain_id=case.shared["chain_id"], parent=parent, validators=validators)
    return {"header": block.header, "block_id": block.header.block_id(), "encoded": encode(block)}
