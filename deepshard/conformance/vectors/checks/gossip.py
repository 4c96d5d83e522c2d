"""Checks of `gossip.json`."""

from __future__ import annotations

from typing import Final

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.encoding import decode, encode
from deepshard.gossip.units import Topic, entry_unit, whole_unit
from deepshard.limits import BODY_BYTES_MAX
from deepshard.wire.messages import CATALOGUE, BlockProposal, ProofOfLock, Transactions, Votes

_TOPICS: Final = {
    Transactions: Topic.TRANSACTIONS,
    Votes: Topic.CONSENSUS,
    BlockProposal: Topic.CONSENSUS,
    ProofOfLock: Topic.CONSENSUS,
}


def check(case: Fields) -> Json:
    """Take a message apart into its units."""
    kind = case["kind"]
    message = decode(case.data("body"), CATALOGUE[kind], bytes_max=BODY_BYTES_MAX)
    topic = _TOPICS[type(message)]
    if isinstance(message, BlockProposal | ProofOfLock):
        units = [whole_unit(topic, kind, message)]
    else:
        (entries,) = (getattr(message, name) for name in message.__struct_fields__)
        units = [entry_unit(topic, kind, entry) for entry in entries]
    return {"ids": [unit.id for unit in units], "body": encode(message)}
