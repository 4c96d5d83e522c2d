"""Checks of `evidence.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.consensus.forensics import (
    ConflictingCommits,
    culprits,
    decode_accusation,
    verify_conflicting_commits,
)
from deepshard.evidence import verify_evidence


def check(case: Fields) -> Json:
    """Verify a file of evidence."""
    chain_id = case.shared["chain_id"]
    accusation = decode_accusation(case.data("encoded"))
    if isinstance(accusation, ConflictingCommits):
        convicted = culprits(verify_conflicting_commits(accusation, chain_id))
        height = accusation.first.header.height
        return {"evidence": accusation, "kind": "conflicting-commits", "height": height, "convicted": sorted(convicted)}
    offence = verify_evidence(accusation, chain_id)
    return {
        "evidence": accusation,
        "kind": offence.kind,
        "height": offence.height,
        "round": offence.round,
        "convicted": [offence.validator],
    }
