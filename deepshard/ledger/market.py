"""Licences for the current weights, at a price that rises exponentially with the value the network has gained."""

from __future__ import annotations

from typing import Final

from deepshard.ledger import funds, keys
from deepshard.ledger.call import Call
from deepshard.ledger.faults import PriceAboveLimit, WrongVersion
from deepshard.ledger.params import Params
from deepshard.ledger.records import Licence
from deepshard.ledger.storage import storage_weight
from deepshard.ledger.transactions import BuyLicence

FRACTION_BITS: Final = 64
LN2: Final = 12786308645202655659
"""Natural logarithm of 2, times 2^64, rounded down."""
TAYLOR_TERMS: Final = 24
"""ln(2)^24 / 24! is below 2^-91: more terms would add nothing to 64 bits."""
PRICE_MAX: Final = 1 << 61
_DOUBLINGS_MAX: Final = 62


def exponential(x: int) -> tuple[int, int]:
    """exp(x / 2^64) as (m, n) with value m * 2^n / 2^64 and m from 2^64 to below 2^65; `x` is not negative.

    x = n * LN2 + r with 0 <= r < LN2. m is the Taylor sum of exp(r): term 0 is 2^64, and term k is
    floor(floor(term k-1 * r / 2^64) / k), for k from 1 to `TAYLOR_TERMS`. Each step is monotone in r and the sum stays
    below 2 * 2^64, so the whole is monotone in x.
    """
    doublings, rest = divmod(x, LN2)
    term = total = 1 << FRACTION_BITS
    for k in range(1, TAYLOR_TERMS + 1):
        term = (term * rest >> FRACTION_BITS) // k
        total += term
    return total, doublings


def licence_price(params: Params, value: int) -> int:
    """Price in base units at an accumulated value in millinats: price_base * exp(price_kappa * value).

    The exponent is floor(price_kappa_nano * value * 2^64 / 10^9); the price is rounded down and never above
    `PRICE_MAX`.
    """
    mantissa, doublings = exponential((params.price_kappa_nano * value << FRACTION_BITS) // 10**9)
    if doublings > _DOUBLINGS_MAX:
        return PRICE_MAX
    return min(PRICE_MAX, (params.price_base * mantissa << doublings) >> FRACTION_BITS)


def apply_buy_licence(call: Call, action: BuyLicence) -> None:
    """Buy or renew the sender's licence for the current weights and those of the next `licence_epochs` versions.

    `fee_holders_bp` of the price go to the active validators in proportion to what they weigh in
    placement, `fee_treasury_bp` to the treasury,
    what is left is burned; what the division among holders leaves over goes to the treasury.
    """
    # CHECK
    model = call.draft.current_model()
    if action.version != model.version:
        raise WrongVersion(model.version, action.version)
    price = licence_price(call.params, model.value)
    if price > action.price_max:
        raise PriceAboveLimit(price, action.price_max)
    call.require(price)
    # CHARGE
    call.charge_fee()
    # APPLY
    draft = call.draft
    funds.debit(draft, call.sender, price)
    holders = price * call.params.fee_holders_bp // 10_000
    treasury = price * call.params.fee_treasury_bp // 10_000
    burned = price - holders - treasury
    weights = [(entry.address, storage_weight(draft, entry)) for entry in draft.active().validators]
    total = sum(weight for _, weight in weights)
    # Where all offer nothing, all weights are 0, and so are the shares.
    shares = [(address, weight, holders * weight // max(1, total)) for address, weight in weights]
    for address, _, share in shares:
        funds.credit(draft, address, share)
    treasury += holders - sum(share for _, _, share in shares)
    funds.to_treasury(draft, treasury)
    funds.burn(draft, burned)
    last_version = model.version + call.params.licence_epochs
    licence = Licence(call.public_key, 0, last_version, price, call.height)
    draft.write(keys.licence_key(call.sender), licence)
    # RECEIPT
    facts = {"version": model.version, "last_version": last_version, "value": model.value}
    split = {"holders": sum(share for _, _, share in shares), "treasury": treasury, "burned": burned}
    call.receipts.add("licence", call.sender, call.id, -price, "", **facts, **split)
    for address, weight, share in shares:
        facts = {"weight": weight, "active_weight": total}
        call.receipts.add("licence-share", address, call.id, share, "", **facts)
