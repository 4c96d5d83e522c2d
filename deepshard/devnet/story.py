"""Receipts in plain words; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepshard.primitives import format_amount

Json = dict[str, Any]


def tell(receipt: Json, names: Mapping[str, str]) -> str | None:
    """One sentence about a receipt, or None for kinds that would only repeat another's news.

    Args:
        names: name of each known account, by address.
    """
    kind, facts = str(receipt["kind"]), dict(receipt.get("facts") or {})
    who = names.get(str(receipt.get("account")), str(receipt.get("account")))
    amount, reason = int(receipt.get("amount", 0)), str(receipt.get("reason") or "")
    match kind:
        case "propose":
            stake = format_amount(int(facts.get("stake", 0)))
            text = f"{who} proposes a text of {facts.get('segments')} segments with a stake of {stake} tokens"
        case "proposal-revealing":
            text = f"the committee has committed its votes on {who}'s proposal and reveals them"
        case "proposal-accepted":
            text = f"a proposal of {who} is accepted: {_tally(facts)}"
        case "proposal-rejected" | "proposal-harmful" | "proposal-contested":
            lost = f", {format_amount(-amount)} tokens of its stake are lost" if amount else ""
            text = f"a proposal of {who} is {kind.removeprefix('proposal-')}: {_tally(facts)}{lost}"
        case "round-opened":
            text = f"the batch is frozen: {facts.get('segments')} segments; trainers may join"
        case "join":
            text = f"{who} joins with a stake of {format_amount(int(facts.get('stake', 0)))} tokens"
        case "round-training":
            text = f"{facts.get('trainers')} trainers train on one batch, in one order, each for itself"
        case "round-revealing":
            text = "all commitments are in; the trainers reveal their weights, the beacon draws the probes"
        case "round-scoring":
            text = "validators score every submission on the probes"
        case "round-accepted":
            text = f"the submission of {who}, the medoid, is now version {facts.get('version')} of the weights"
        case "round-void":
            text = f"the round is void ({reason}): no weights are accepted"
        case "trainer-reward" | "informant-reward":
            text = f"{who} earns {format_amount(amount)} tokens{_because(reason)}"
        case "trainer-slash":
            text = f"{who} loses its stake of {format_amount(-amount)} tokens{_because(reason)}"
        case "trainer-returned":
            text = f"{who} gets its stake back{_because(reason)}"
        case "licence":
            text = f"{who} buys a licence for {format_amount(-amount)} tokens"
        case _:
            return None
    return f"height {receipt.get('height')}: {text}"


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _tally(facts: Mapping[str, Any]) -> str:
    accept, threshold = facts.get("accept_bp"), facts.get("threshold_bp")
    if isinstance(accept, int) and isinstance(threshold, int):
        return f"{accept / 100:.1f} % of the stake in favour, {threshold / 100:.1f} % needed"
    return ", ".join(f"{name} {value}" for name, value in facts.items()) or "no tally"
