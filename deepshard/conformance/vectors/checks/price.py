"""Checks of `price.json`."""

from __future__ import annotations

from msgspec.structs import replace

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.conformance.vectors.params import PARAMS
from deepshard.ledger.market import exponential, licence_price


def check(case: Fields) -> Json:
    """Compute a price, a curve, or the exponential below them."""
    if case["operation"] == "exponential":
        m, n = exponential(case.number("x"))
        return {"m": m, "n": n}
    base, kappa = case.number("price_base"), case.number("price_kappa_nano")
    params = replace(PARAMS, price_base=base, price_kappa_nano=kappa)
    if case["operation"] == "price":
        return {"price": licence_price(params, case.number("value"))}
    return {"prices": [licence_price(params, int(value)) for value in case["values"]]}
