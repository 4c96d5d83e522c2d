"""Checks of `votes.json`."""

from __future__ import annotations

from deepshard.ballots import Proposal, Vote
from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.conformance.vectors.read import read_validators
from deepshard.consensus.certificates import verify_lock_proof, verify_proposal, verify_vote
from deepshard.consensus.types import LockProof
from deepshard.consensus.validators import ValidatorSet, proposer
from deepshard.encoding import decode, encode
from deepshard.identity import SecretKey
from deepshard.limits import LOCK_PROOF_BYTES_MAX
from deepshard.primitives import tagged_hash

_BYTES_MAX = 512


def check(case: Fields) -> Json:
    """Verify a vote, a proof-of-lock or a proposal, or tell whose turn it is."""
    if case["operation"] == "turns":
        return {"proposers": _turns(case["powers"], [int(slot) for slot in case["height_plus_round"]])}
    chain_id, validators = case.shared["chain_id"], read_validators(case.shared["validators"])
    if case["operation"] == "vote":
        vote = decode(case.data("encoded"), Vote, bytes_max=_BYTES_MAX)
        verify_vote(chain_id, validators, vote)
        return {"vote": vote, "encoded": encode(vote), "sign_bytes": vote.sign_bytes(chain_id)}
    if case["operation"] == "lock proof":
        proof = decode(case.data("encoded"), LockProof, bytes_max=LOCK_PROOF_BYTES_MAX)
        verify_lock_proof(chain_id, validators, proof)
        return {"proof": proof, "encoded": encode(proof)}
    proposal = decode(case.data("encoded"), Proposal, bytes_max=_BYTES_MAX)
    verify_proposal(chain_id, validators, proposal)
    return {"proposal": proposal, "encoded": encode(proposal), "sign_bytes": proposal.sign_bytes(chain_id)}


def _turns(powers: list[int | str], slots: list[int]) -> list[int]:
    """Places of the proposers in a set of any keys in which the validator at place i has `powers[i]`."""
    keys = sorted((SecretKey(tagged_hash("any", bytes([n]))) for n in range(len(powers))), key=lambda key: key.address)
    validators = ValidatorSet.of((key.public, int(power)) for key, power in zip(keys, powers, strict=True))
    places = {entry.address: place for place, entry in enumerate(validators.validators)}
    return [places[proposer(validators, slot, 0).address] for slot in slots]
