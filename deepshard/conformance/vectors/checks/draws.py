"""Checks of `draws.json`."""

from __future__ import annotations

from msgspec.structs import replace

from deepshard.conformance.vectors.check import Check, Fields
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.conformance.vectors.params import PARAMS
from deepshard.ledger.onion import beacon_after, onion_layer_above
from deepshard.ledger.probes import ProbePools, draw_probes, perturb
from deepshard.ledger.proposals import draw_committee
from deepshard.ledger.records import ActiveSet, ActiveValidator
from deepshard.ledger.rounds import data_order
from deepshard.ledger.sampling import Draws


def check(case: Fields) -> Json:
    """Do what `operation` says."""
    return _OPERATIONS[case["operation"]](case)


def _onion(case: Fields) -> Json:
    layers, layer = [], case.data("innermost")
    for _ in case["layers"]:
        layer = onion_layer_above(layer)
        layers.append(layer)
    return {"layers": layers}


def _beacon(case: Fields) -> Json:
    return {"then": beacon_after(case.data("beacon"), case.data("onion_preimage"))}


def _committee(case: Fields) -> Json:
    entries = [ActiveValidator(unspell(address), bytes(32), int(stake)) for address, stake in case["validators"]]
    seats = draw_committee(ActiveSet(tuple(entries)), case.data("beacon"), case.data("proposal"), case["size"])
    return {"seats": [seat.address for seat in seats]}


def _permutation(case: Fields) -> Json:
    return {"permutation": Draws(case.data("seed"), case["tag"]).permutation(case["count"])}


def _sample(case: Fields) -> Json:
    return {"sample": Draws(case.data("seed"), case["tag"]).sample(case["size"], case["count"])}


def _probes(case: Fields) -> Json:
    pools = ProbePools(**{name: [unspell(one) for one in digests] for name, digests in case["pools"].items()})
    plan = replace(PARAMS.probes, **case["plan"])
    return {"probes": draw_probes(pools, plan, case.data("seed"))}


def _order(case: Fields) -> Json:
    return {"order": data_order(case.data("seed"), case["segments"], case["passes"])}


def _perturb(case: Fields) -> Json:
    plan = replace(PARAMS.probes, replaced_bp=case["replaced_bp"], span_tokens=case["span_tokens"])
    where = {"seed": case.data("seed"), "probe": case["probe"], "index": case["form"]}
    return {"perturbed": perturb(case["tokens"], case["table"], plan=plan, **where)}


_OPERATIONS: dict[str, Check] = {
    "onion": _onion,
    "beacon": _beacon,
    "committee": _committee,
    "permutation": _permutation,
    "sample": _sample,
    "probes": _probes,
    "order": _order,
    "perturb": _perturb,
}
