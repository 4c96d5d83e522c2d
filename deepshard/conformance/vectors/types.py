"""The types that vectors name in their field `type`."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from deepshard.ballots import ValidRound, Vote
from deepshard.consensus.types import CommitCertificate, Header
from deepshard.consensus.validators import ValidatorSet
from deepshard.ledger.records import Account
from deepshard.ledger.transactions import Action, ReportScores, TransactionBody
from deepshard.primitives import Address, Amount, BasisPoints, Count, Digest, Height, Millinats, PublicKey, Signature
from deepshard.shards.manifest import ShardEntry
from deepshard.wire.handshake import Claims
from deepshard.wire.messages import BlobReply, Peers, ProofReply, Status

TYPES: Final[dict[str, Any]] = {
    "int": int,
    "bool": bool,
    "bytes": bytes,
    "str": str,
    "Count": Count,
    "Height": Height,
    "Amount": Amount,
    "BasisPoints": BasisPoints,
    "Millinats": Millinats,
    "ValidRound": ValidRound,
    "Digest": Digest,
    "PublicKey": PublicKey,
    "Signature": Signature,
    "Address": Address,
    "Digest or none": Digest | None,
    "str(1..4)": Annotated[str, msgspec.Meta(min_length=1, max_length=4)],
    "bytes(2..4)": Annotated[bytes, msgspec.Meta(min_length=2, max_length=4)],
    "list(1..3) of Count": Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=3)],
    "list of int": tuple[int, ...],
    "list of bytes": tuple[bytes, ...],
    "tuple (Count, str)": tuple[Count, str],
    "Status": Status,
    "Peers": Peers,
    "ProofReply": ProofReply,
    "BlobReply": BlobReply,
    "Claims": Claims,
    "Vote": Vote,
    "Header": Header,
    "CommitCertificate": CommitCertificate,
    "ValidatorSet": ValidatorSet,
    "Account": Account,
    "Action": Action,
    "ReportScores": ReportScores,
    "TransactionBody": TransactionBody,
    "ShardEntry": ShardEntry,
}
