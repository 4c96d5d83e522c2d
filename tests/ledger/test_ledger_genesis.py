from __future__ import annotations

import json

import pytest
from ledger_network import BALANCE, CHAIN_ID, PARAMS, TOKEN, TRAINERS, VALIDATORS, genesis_of
from msgspec.structs import replace

from deepshard.errors import DiskCorruption, UsageError
from deepshard.ledger import dump_genesis, genesis_state, load_genesis, validator_set_at
from deepshard.ledger.params import Genesis, Params
from deepshard.ledger.state import State

GENESIS = genesis_of()


def test_text_form_is_json_and_comes_back() -> None:
    text = dump_genesis(GENESIS)
    assert CHAIN_ID in text
    assert load_genesis(text) == GENESIS
    assert load_genesis(text).hash() == GENESIS.hash()


@pytest.mark.clause("10.7/5", "10.7/6")
def test_first_state() -> None:
    state = genesis_state(GENESIS)
    total = 4 * 1000 * TOKEN + 10 * BALANCE
    supply = state.supply()
    assert (supply.genesis, supply.minted, supply.burned, supply.treasury) == (total, 0, 0, 0)
    assert state.money() == total
    assert state.chain().height == 0
    assert state.params() == PARAMS
    assert state.account(TRAINERS[0].address).balance == BALANCE
    assert state.account(bytes(20)).balance == 0
    assert tuple(state.heldout_pool()) == GENESIS.heldout
    assert tuple(state.general_pool()) == GENESIS.general
    assert tuple(state.rejected_pool()) == tuple(state.canary_pool()) == GENESIS.canaries
    assert state.current_model().manifest == GENESIS.manifest
    assert state.current_round() is None
    expected = sorted((v.address, v.public, 1000 * TOKEN) for v in VALIDATORS)
    assert list(validator_set_at(state)) == expected
    assert [(address, record.stake) for address, record in state.validators()] == [(a, s) for a, _, s in expected]


def test_snapshots_come_back_and_damage_shows() -> None:
    state = genesis_state(GENESIS)
    again = State.load(state.dump())
    assert again.root == state.root
    assert again.dump() == state.dump()
    assert again.params() == state.params()
    for damaged in (b"", state.dump()[:-1], b"\x93"):
        with pytest.raises(DiskCorruption):
            State.load(damaged)


def test_other_genesis_other_root() -> None:
    assert genesis_state(replace(GENESIS, time_ms=1)).root != genesis_state(GENESIS).root


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1, 2", dump_genesis(GENESIS)[:-20], '["x"]', "\ud800"])
def test_unreadable_files_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        load_genesis(text)


def test_a_file_of_an_earlier_version_is_told_apart() -> None:
    chain_id, time_ms, params, *rest = json.loads(dump_genesis(GENESIS))
    with pytest.raises(UsageError, match="earlier version of deepshard"):
        load_genesis(json.dumps([chain_id, time_ms, params[:-3], *rest[:4], *rest[6:]]))


V, A = GENESIS.validators, GENESIS.accounts


@pytest.mark.clause("10.7/3")
@pytest.mark.parametrize(
    ("genesis", "message"),
    [
        (replace(GENESIS, validators=()), "0 validators"),
        (replace(GENESIS, validators=(*V, replace(V[0], stake=900 * TOKEN))), "validator twice"),
        (replace(GENESIS, accounts=(*A, A[0])), "account twice"),
        (replace(GENESIS, validators=(replace(V[0], stake=0),)), "stake 0"),
        (replace(GENESIS, accounts=(replace(A[0], balance=1 << 61),)), "issues"),
    ],
)
def test_contradictions_are_refused(genesis: Genesis, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        genesis_state(genesis)
    with pytest.raises(UsageError, match=message):
        load_genesis(dump_genesis(genesis))


@pytest.mark.clause("10.7/3", "10.7/4")
@pytest.mark.parametrize(
    ("params", "message"),
    [
        (replace(PARAMS, committee_size=0), "committee_size"),
        (replace(PARAMS, epoch_blocks=0), "epoch_blocks"),
        (replace(PARAMS, unbonding_blocks=5), "unbonding_blocks"),
        (replace(PARAMS, jail_blocks=4), "jail_blocks"),
        (replace(PARAMS, block_interval_ms=0), "block_interval_ms must be at least 1"),
        (replace(PARAMS, trusting_period_ms=0), "trusting_period_ms must be at least 1"),
        (
            replace(PARAMS, trusting_period_ms=4_180_001),
            r"trusting_period_ms is 4180001, and must be at most 4180000: \(",
        ),
        (replace(PARAMS, threshold_floor_bp=9500), "threshold_floor_bp"),
        (replace(PARAMS, fee_holders_bp=9000), "fee_holders_bp"),
        (replace(PARAMS, vote_reveal_blocks=0), "vote_reveal_blocks"),
        (replace(PARAMS, price_base=0), "price_base"),
        (replace(PARAMS, probes=replace(PARAMS.probes, batch=0)), "probes.batch"),
        (replace(PARAMS, probes=replace(PARAMS.probes, general=250)), "258 texts"),
        (replace(PARAMS, probes=replace(PARAMS.probes, span_tokens=0)), "span_tokens"),
        (replace(PARAMS, recipe=replace(PARAMS.recipe, batch_segments=0)), "batch_segments"),
    ],
)
def test_inconsistent_parameters_are_refused(params: Params, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        genesis_state(replace(GENESIS, params=params))


@pytest.mark.clause("10.7/3")
@pytest.mark.parametrize("chain_id", ["devnet\n", "-devnet", "Devnet", "dev net", "", "d" * 51])
def test_a_chain_id_is_one_line_of_letters_digits_and_hyphens(chain_id: str) -> None:
    # In a regular expression of Python `$` also stands before a newline at the end.
    with pytest.raises(UsageError, match="can't be read"):
        load_genesis(dump_genesis(replace(genesis_of(PARAMS), chain_id=chain_id)))
