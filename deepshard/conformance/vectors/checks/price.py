"""Checks of `price.json`."""

from __future__ import annotations

from msgspec.structs import replace

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.ledger.market import exponential, licence_price
from deepshard.testing.builders import SMALL_PARAMS


def check(case: Fields) -> Json:
    """Compute a price, a curve, or the exponential below them."""
    if case["operation"] == "exponential":
        m, n = exponential(case.number("x"))
        return {"m": m, "n": n}
    base, kappa = case.number("price_base"), case.number("price_kappa_nano")
    params = replace(SMALL_PARAMS, price_base=base, price_kappa_nano=kappa)
    if case["operation"] == "price":
        return {"price": licence_price(params, case.number("value"))}
    return {"prices": [licence_price(params, int(value)) for value in case["values"]]}
