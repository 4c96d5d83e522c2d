"""Checks of `light.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.conformance.vectors.read import read_validators
from deepshard.consensus.light import LightState, decode_light_block, verify_sequential, verify_skipping

_RULES = {"sequential": verify_sequential, "skipping": verify_skipping}
_TRUST = ("chain_id", "height", "block_id", "time_ms", "validators", "next_validators_hash")


def check(case: Fields) -> Json:
    """Take one step."""
    listed = case["trusted"]
    trusted = LightState(
        listed["chain_id"],
        int(listed["height"]),
        unspell(listed["block_id"]),
        int(listed["time_ms"]),
        read_validators(listed["validators"]),
        unspell(listed["next_validators_hash"]),
        None,
    )
    block = decode_light_block(case.data("header"), case.data("certificate"), case.data("validators"))
    now_ms, period_ms = case.number("now_ms"), case.number("trusting_period_ms")
    state = _RULES[case["rule"]](trusted, block, now_ms=now_ms, trusting_period_ms=period_ms)
    return {"then": {name: getattr(state, name) for name in _TRUST}}
