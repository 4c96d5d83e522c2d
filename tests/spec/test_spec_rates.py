"""The rates in chapter 6 are those of the code."""

from __future__ import annotations

from spec_text import rows

from deepshard.gossip.rates import DEFAULT_RATE
from deepshard.net.network import RATES
from deepshard.wire.messages import CATALOGUE


def test_rates_are_those_of_the_code() -> None:
    described: dict[str, tuple[float, float]] = {}
    for row in rows("06-messages", "kind", "a second", "at once"):
        for name in row["kind"].split(", "):
            described[name] = (float(row["a second"]), float(row["at once"]))
    others = described.pop("all others together")
    assert described == {CATALOGUE[kind].__name__: (rate.per_s, rate.burst) for kind, rate in RATES.items()}
    assert others == (DEFAULT_RATE.per_s, DEFAULT_RATE.burst)
