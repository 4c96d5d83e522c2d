"""`price.json`: the price of a licence, in fixed point (chapter 11.6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from deepshard.conformance.vectors.document import Json, accept, document

_PRICE: Final = ("11.6/2",)
_LN2: Final = 12786308645202655659
_TOKEN: Final = 10**9


def make() -> Json:
    """The file."""
    return document(
        "price",
        "The price of a licence (chapter 11.6/2), and the exponential function in fixed point that it rests on.",
        [*_exponentials(), *_prices(), *_curve()],
    )


def _exponential(x: int) -> tuple[int, int]:
    n, r = x // _LN2, x % _LN2
    terms = [2**64]
    for k in range(1, 25):
        terms.append(terms[-1] * r // 2**64 // k)
    return sum(terms), n


def _price(base: int, kappa: int, value: int) -> int:
    m, n = _exponential(kappa * value * 2**64 // 10**9)
    return 2**61 if n > 62 else min(2**61, base * m * 2**n // 2**64)


def _exponentials() -> Iterator[Json]:
    edges = [0, 1, 2**32, _LN2 - 1, _LN2, _LN2 + 1, 2**63, 2**64, 2**64 + 1, 10 * _LN2 - 1, 10 * _LN2, 40 * 2**64]
    for x in edges:
        m, n = _exponential(x)
        yield accept(f"exponential of {x} / 2^64", _PRICE, operation="exponential", x=x, m=m, n=n)


def _prices() -> Iterator[Json]:
    for base, kappa, value in (
        (5 * _TOKEN, 100_000, 0),
        (5 * _TOKEN, 100_000, 1),
        (5 * _TOKEN, 100_000, 6931),
        (5 * _TOKEN, 100_000, 6932),
        (5 * _TOKEN, 100_000, 100_000),
        (1, 0, 2**60),
        (1, 100_000, 2**60),
        (1, 1, 43_668_272_375),
        (1, 1, 43_668_272_376),
        (2**61, 100_000, 0),
        (2**62, 100_000, 0),
        (2**61 - 1, 1, 1),
        (7, 2**31 - 1, 10),
        (7, 2**31 - 1, 20),
    ):
        name = f"base {base}, kappa {kappa}, value {value}"
        fields = {"price_base": base, "price_kappa_nano": kappa, "value": value, "price": _price(base, kappa, value)}
        yield accept(name, _PRICE, operation="price", **fields)


def _curve() -> Iterator[Json]:
    base, kappa = 5 * _TOKEN, 100_000
    values = [*range(0, 50_001, 2_500), *range(100_000, 400_001, 25_000)]
    prices = [_price(base, kappa, value) for value in values]
    assert prices == sorted(prices)
    fields = {"price_base": base, "price_kappa_nano": kappa, "values": values, "prices": prices}
    yield accept("a curve", (*_PRICE, "11.6/3"), operation="curve", **fields)
