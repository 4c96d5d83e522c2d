"""Checks of `tally.json`."""

from __future__ import annotations

from msgspec.structs import replace

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.conformance.vectors.params import PARAMS
from deepshard.ledger.tally import Ballot, tally


def check(case: Fields) -> Json:
    """Judge a proposal."""
    params = replace(PARAMS, tally_rule=case["rule"], **case["limits"])
    ballots = [
        Ballot(
            int(listed["stake"]),
            listed["accept"],
            listed["harmful"],
            listed["predicted_accept_bp"],
            tuple((a, b, c, d, e) for a, b, c, d, e in listed["scores"]),
        )
        for listed in case["ballots"]
    ]
    outcome, result = tally(params, ballots, case["segments"], case.number("committee_stake"))
    return {"outcome": outcome, "tally": result}
