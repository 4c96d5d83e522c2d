"""What validators offer to store: who may say it, how often, how long it lasts, what it costs and earns."""

from __future__ import annotations

import pytest
from ledger_network import BALANCE, BUYER, PARAMS, TOKEN, TRAINERS, VALIDATORS, Network

from deepshard.ledger.faults import AlreadyDone, InsufficientBalance, NotAValidator
from deepshard.ledger.records import StorageOffer, StorageTerms
from deepshard.ledger.storage import storage_weight
from deepshard.ledger.transactions import BuyLicence, OfferStorage, Transfer, Unbond

OFFER = OfferStorage(300 * TOKEN, "example.org", "192.0.2.0/24")
HOLDER = VALIDATORS[0]


@pytest.mark.clause("11.3/1")
def test_an_offer_is_kept_with_its_epoch_and_costs_the_fee() -> None:
    network = Network()
    balance = network.state.account(HOLDER.address).balance
    network.block(*network.sign(HOLDER, OFFER))
    expected = StorageOffer(300 * TOKEN, "example.org", "192.0.2.0/24", 0, None)
    assert network.state.storage_offer(HOLDER.address) == expected
    assert network.state.account(HOLDER.address).balance == balance - PARAMS.transaction_fee
    facts = (("capacity", 300 * TOKEN), ("operator", "example.org"), ("network", "192.0.2.0/24"))
    assert [(each.account, each.facts) for each in network.facts("storage-offered")] == [(HOLDER.address, facts)]


@pytest.mark.clause("11.3/1")
def test_offers_are_for_validators_who_can_pay() -> None:
    network = Network()
    with pytest.raises(NotAValidator):
        network.block(*network.sign(TRAINERS[0], OFFER))
    with pytest.raises(NotAValidator):
        network.block(*network.sign(HOLDER, Unbond(1000 * TOKEN), OFFER))
    all_there_is = Transfer(TRAINERS[0].address, BALANCE - PARAMS.transaction_fee)
    with pytest.raises(InsufficientBalance):
        network.block(*network.sign(HOLDER, all_there_is, OFFER))


@pytest.mark.clause("11.3/1")
def test_an_offer_changes_once_an_epoch() -> None:
    network = Network()
    network.block(*network.sign(HOLDER, OFFER))
    other = OfferStorage(5, "", "")
    with pytest.raises(AlreadyDone):
        network.block(*network.sign(HOLDER, other))
    network.blocks_until(lambda state: state.chain().epoch == 1)
    network.block(*network.sign(HOLDER, other))
    assert network.state.storage_offer(HOLDER.address) == StorageOffer(
        5, "", "", 1, StorageTerms(300 * TOKEN, "example.org", "192.0.2.0/24")
    )


@pytest.mark.clause("11.3/3")
def test_an_offer_ends_with_the_bond_that_it_belongs_to() -> None:
    network = Network()
    staying = VALIDATORS[1]
    network.block(*network.sign(HOLDER, OFFER, Unbond(1000 * TOKEN)), *network.sign(staying, OFFER))
    assert network.state.storage_offer(HOLDER.address) is not None
    network.blocks_until(lambda state: state.validator(HOLDER.address) is None)
    assert network.state.storage_offer(HOLDER.address) is None
    assert network.state.storage_offer(staying.address) is not None


@pytest.mark.clause("8.10/3", "11.6/1")
def test_who_wants_to_hold_less_than_its_stake_weighs_and_earns_less() -> None:
    network = Network()
    empty = VALIDATORS[1]
    plenty = OfferStorage(2000 * TOKEN, "", "")
    network.block(
        *network.sign(HOLDER, OFFER),
        *network.sign(empty, OfferStorage(0, "", "")),
        *network.sign(VALIDATORS[2], plenty),
    )
    weights = [storage_weight(network.state, each) for each in network.state.active().validators]
    expected = {HOLDER.address: 300 * TOKEN, empty.address: 0}
    assert weights == [expected.get(each.address, 1000 * TOKEN) for each in network.state.active().validators]
    network.block(*network.sign(BUYER, BuyLicence(0, 1 << 62)))
    pool = PARAMS.price_base * PARAMS.fee_holders_bp // 10_000
    shares = {each.account: each.amount for each in network.facts("licence-share")}
    assert shares == {
        each.address: pool * expected.get(each.address, 1000 * TOKEN) // (2300 * TOKEN) for each in VALIDATORS
    }
    assert network.facts("licence-share")[0].facts[1] == ("active_weight", 2300 * TOKEN)


@pytest.mark.clause("11.6/1")
def test_where_nobody_holds_anything_the_holders_part_goes_to_the_treasury() -> None:
    network = Network()
    network.block(*(network.sign(each, OfferStorage(0, "", ""))[0] for each in VALIDATORS))
    before = network.state.supply().treasury
    network.block(*network.sign(BUYER, BuyLicence(0, 1 << 62)))
    price = PARAMS.price_base
    part = price * PARAMS.fee_holders_bp // 10_000 + price * PARAMS.fee_treasury_bp // 10_000
    assert network.state.supply().treasury == before + part + PARAMS.transaction_fee
