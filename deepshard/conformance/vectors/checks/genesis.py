"""Checks of `genesis.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import decode, encode
from deepshard.ledger import genesis_state, load_genesis


def check(case: Fields) -> Json:
    """Read a genesis file and begin."""
    genesis = load_genesis(case["text"])
    state = genesis_state(genesis)
    validators = ValidatorSet.of((public, stake) for _, public, stake in state.active_validators())
    return {
        "encoded": encode(genesis),
        "hash": genesis.hash(),
        "entries": decode(state.dump(), tuple[tuple[bytes, bytes], ...], bytes_max=1 << 26),
        "state_root": state.root,
        "validators_hash": validators.hash(),
    }
