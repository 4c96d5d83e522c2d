"""Trust in a header ends before the stake behind it can be withdrawn: the bound that genesis is held to, in blocks and
in time.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_network import PARAMS, TOKEN, VALIDATORS, Network, genesis_of
from msgspec.structs import replace

from deepshard.errors import UsageError
from deepshard.ledger.genesis import check_genesis, punishable_ms
from deepshard.ledger.transactions import Unbond
from deepshard.limits import CLOCK_DRIFT_MS_MAX

LEAVING = VALIDATORS[0]


@settings(max_examples=40, deadline=None)
@given(epoch=st.integers(1, 6), extra=st.integers(1, 12), at=st.integers(0, 11))
@pytest.mark.clause("10.5/7")
def test_who_votes_at_a_height_has_its_stake_for_the_blocks_that_the_bound_counts(
    epoch: int, extra: int, at: int
) -> None:
    network = Network(epoch_blocks=epoch, unbonding_blocks=epoch + extra)
    for _ in range(at):
        network.block()
    bond = network.state.validator(LEAVING.address)
    assert bond is not None
    network.block(*network.sign(LEAVING, Unbond(bond.stake)))
    voted = network.state.chain().height
    while network.state.account(LEAVING.address).unbonding:
        if LEAVING.address in {entry[0] for entry in network.state.active_validators()}:
            voted = network.state.chain().height + 1
        network.block()
    released = network.state.chain().height
    assert released - voted > network.params.unbonding_blocks - epoch
    assert network.state.account(LEAVING.address).balance >= bond.stake - TOKEN


@given(
    blocks=st.integers(1, 300),
    interval_ms=st.integers(1, 10_000),
    ahead_ms=st.lists(st.integers(-20_000, CLOCK_DRIFT_MS_MAX), min_size=1, max_size=20),
    behind_ms=st.integers(0, CLOCK_DRIFT_MS_MAX),
)
@pytest.mark.clause("10.7/4")
def test_no_client_trusts_a_header_whose_stake_is_gone(
    blocks: int, interval_ms: int, ahead_ms: list[int], behind_ms: int
) -> None:
    """Blocks as early as the rules allow: times as close as may be, and as far ahead as honest clocks let pass."""
    params = replace(PARAMS, unbonding_blocks=blocks + 7, epoch_blocks=7, block_interval_ms=interval_ms)
    period_ms = punishable_ms(params)
    trusted_time_ms = time_ms = real_ms = 1_000_000
    for number in range(blocks):
        real_ms = max(real_ms, time_ms + interval_ms - ahead_ms[number % len(ahead_ms)])
        real_ms = max(real_ms, time_ms + interval_ms - CLOCK_DRIFT_MS_MAX)
        time_ms += interval_ms
    client_ms = real_ms - behind_ms
    assert client_ms - trusted_time_ms >= period_ms


@given(unbonding=st.integers(2, 10**7), interval_ms=st.integers(1, 10**5), period_ms=st.integers(1, 2**31 - 1))
@pytest.mark.clause("10.7/4")
def test_genesis_is_held_to_the_bound(unbonding: int, interval_ms: int, period_ms: int) -> None:
    params = replace(
        PARAMS,
        epoch_blocks=1,
        unbonding_blocks=unbonding,
        block_interval_ms=interval_ms,
        trusting_period_ms=period_ms,
    )
    most = (unbonding - 1) * interval_ms - 20_000
    if period_ms <= most:
        check_genesis(genesis_of(params))
        return
    with pytest.raises(UsageError, match=f"trusting_period_ms is {period_ms}, and must be at most {most}: "):
        check_genesis(genesis_of(params))
