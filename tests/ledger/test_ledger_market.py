from __future__ import annotations

from decimal import Decimal, getcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_network import BUYER, PARAMS, TOKEN, VALIDATORS, Network
from msgspec.structs import replace

from deepshard.encoding import decode
from deepshard.ledger import keys, verify_proof
from deepshard.ledger.faults import InsufficientBalance, PriceAboveLimit, WrongVersion
from deepshard.ledger.market import LN2, PRICE_MAX, exponential, licence_price
from deepshard.ledger.records import Licence
from deepshard.ledger.state import State
from deepshard.ledger.transactions import BuyLicence

getcontext().prec = 60


def test_logarithm_of_two() -> None:
    assert int(Decimal(2).ln() * 2**64) == LN2


@given(st.integers(0, 40 << 64))
@settings(max_examples=80, deadline=None)
def test_exponential_is_exact_to_eighteen_digits(x: int) -> None:
    mantissa, doublings = exponential(x)
    assert 1 << 64 <= mantissa < 1 << 65
    true = (Decimal(x) / 2**64).exp()
    assert abs(Decimal(mantissa) * 2**doublings / 2**64 / true - 1) < Decimal("1e-17")


@pytest.mark.clause("11.6/3")
@given(st.integers(0, 1 << 70), st.integers(0, 1 << 66))
@settings(max_examples=80, deadline=None)
def test_exponential_is_monotone(x: int, more: int) -> None:
    def value(at: int) -> int:
        mantissa, doublings = exponential(at)
        return mantissa << doublings

    assert value(x) <= value(x + 1) <= value(x + 1 + more)


def test_exponential_is_monotone_across_doublings() -> None:
    for n in range(1, 50):
        low, high = exponential(n * LN2 - 1), exponential(n * LN2)
        assert high == (1 << 64, n)
        assert low[0] << low[1] <= high[0] << high[1]


@pytest.mark.clause("11.6/2")
@pytest.mark.parametrize(
    ("value", "price"),
    [(0, 5 * TOKEN), (1000, 5525854590), (10_000, 13591409142), (100_000, 110132328974033)],
)
def test_known_prices(value: int, price: int) -> None:
    assert licence_price(PARAMS, value) == price
    exact = PARAMS.price_base * (Decimal(PARAMS.price_kappa_nano) * value / 10**9).exp()
    assert abs(price - exact) <= 1


@pytest.mark.clause("11.6/2")
def test_price_saturates() -> None:
    assert licence_price(PARAMS, 1 << 60) == PRICE_MAX
    assert licence_price(replace(PARAMS, price_base=1), 430_000) == PRICE_MAX
    assert licence_price(replace(PARAMS, price_kappa_nano=0), 1 << 60) == PARAMS.price_base


@pytest.mark.clause("11.6/1")
def test_a_licence_splits_its_price() -> None:
    network = Network()
    before = network.state
    network.block(*network.sign(BUYER, BuyLicence(0, 5 * TOKEN)))
    after = network.state
    fee = PARAMS.transaction_fee
    licence = after.licence(BUYER.address)
    assert licence is not None
    assert (licence.buyer, licence.first_version, licence.last_version) == (BUYER.public, 0, 3)
    assert (licence.price, licence.height) == (5 * TOKEN, 1)
    assert after.account(BUYER.address).balance == before.account(BUYER.address).balance - 5 * TOKEN - fee
    for validator in VALIDATORS:
        gained = after.account(validator.address).balance - before.account(validator.address).balance
        assert gained == 5 * TOKEN * 6 // 10 // 4
    assert after.supply().treasury == 5 * TOKEN * 2 // 10 + fee
    assert after.supply().burned == 5 * TOKEN * 2 // 10
    assert after.licences() == [(BUYER.address, licence)]


@pytest.mark.clause("11.6/1")
def test_a_licence_is_refused_above_the_limit_or_for_other_weights() -> None:
    network = Network()
    with pytest.raises(PriceAboveLimit) as caught:
        network.block(*network.sign(BUYER, BuyLicence(0, 5 * TOKEN - 1)))
    assert (caught.value.price, caught.value.limit) == (5 * TOKEN, 5 * TOKEN - 1)
    with pytest.raises(WrongVersion):
        network.block(*network.sign(BUYER, BuyLicence(1, 5 * TOKEN)))
    network = Network(price_base=6000 * TOKEN)
    with pytest.raises(InsufficientBalance):
        network.block(*network.sign(BUYER, BuyLicence(0, 6000 * TOKEN)))


def test_what_holders_cannot_divide_goes_to_the_treasury() -> None:
    network = Network(price_base=7, fee_holders_bp=10_000, fee_treasury_bp=0)
    network.block(*network.sign(BUYER, BuyLicence(0, 7)))
    assert network.state.supply().treasury == 3 + PARAMS.transaction_fee
    assert network.state.supply().burned == 0


def test_a_light_client_reads_a_licence_by_proof() -> None:
    network = Network()
    network.block(*network.sign(BUYER, BuyLicence(0, 5 * TOKEN)))
    state: State = network.state
    key = keys.licence_key(BUYER.address)
    value = state.get(key)
    assert value is not None
    verify_proof(state.root, key, value, state.prove(key))
    assert decode(value, Licence, bytes_max=1000) == state.licence(BUYER.address)
    other = keys.licence_key(VALIDATORS[0].address)
    verify_proof(state.root, other, None, state.prove(other))
