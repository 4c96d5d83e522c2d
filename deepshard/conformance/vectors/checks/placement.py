"""Checks of `placement.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.placement import Candidate, holders, log2_fixed, shard_key


def check(case: Fields) -> Json:
    """Do what `operation` says."""
    match case["operation"]:
        case "key":
            return {"key": shard_key(case["tensor"], case.number("row"), case.number("column"))}
        case "logarithm":
            return {"logarithm": log2_fixed(case.number("argument"))}
        case _:
            candidates = [
                Candidate(unspell(address), int(weight), operator, network)
                for address, weight, operator, network in case["candidates"]
            ]
            return {"holders": holders(case.data("key"), candidates, case.number("replication"))}
