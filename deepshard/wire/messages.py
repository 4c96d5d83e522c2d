"""The message catalogue: every kind with its fields, bounds and priority.

Blocks, votes, proposals and transactions travel as the author's own signed bytes, opaque to the wire.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, ClassVar

import msgspec

from deepshard.encoding import Record
from deepshard.limits import (
    BLOB_BYTES_MAX,
    BLOCK_BYTES_MAX,
    EVIDENCE_BYTES_MAX,
    GOSSIP_BACKOFF_S_MAX,
    GOSSIP_IDS_MAX,
    LOCK_PROOF_BYTES_MAX,
    PEERS_MAX,
    RANGE_BLOCKS_MAX,
    RANGE_PROOF_DIGESTS_MAX,
    SNAPSHOTS_OFFERED_MAX,
    SYNC_BLOCKS_MAX,
    TRANSACTION_BYTES_MAX,
    WANT_DIGESTS_MAX,
)
from deepshard.primitives import Count, Digest, Height

RequestId = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
VoteBytes = Annotated[bytes, msgspec.Meta(max_length=512)]
LockProofBytes = Annotated[bytes, msgspec.Meta(max_length=LOCK_PROOF_BYTES_MAX)]
EvidenceBytes = Annotated[bytes, msgspec.Meta(max_length=EVIDENCE_BYTES_MAX)]
HostPort = Annotated[str, msgspec.Meta(max_length=280)]
TopicNumber = Annotated[int, msgspec.Meta(ge=0, le=255)]
GossipIds = Annotated[
    tuple[Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)], ...], msgspec.Meta(max_length=GOSSIP_IDS_MAX)
]


class Priority(IntEnum):
    """Class of streams, and the order in which frames leave: lower first."""

    CONSENSUS = 0
    GOSSIP = 1
    BULK = 2


class Message(Record, frozen=True):
    """Base of every message."""

    KIND: ClassVar[int]
    PRIORITY: ClassVar[Priority] = Priority.GOSSIP
    ATTACHES: ClassVar[bool] = False
    """Whether a frame of this kind may carry an attachment."""


class Peers(Message, frozen=True):
    """Listen addresses of nodes the sender knows; sent once after the handshake and when they change."""

    KIND = 4
    addresses: Annotated[tuple[HostPort, ...], msgspec.Meta(max_length=PEERS_MAX)]


class Status(Message, frozen=True):
    """How far the sender's chain has come; sent after the handshake, after every block, and while none comes."""

    KIND = 5
    PRIORITY = Priority.CONSENSUS
    height: Height


class Graft(Message, frozen=True):
    """The sender counts the receiver among its mesh of this topic from now on, and asks for the same."""

    KIND = 6
    topic: TopicNumber


class Prune(Message, frozen=True):
    """The sender's mesh of this topic is without the receiver from now on; neither side grafts for `backoff_s`."""

    KIND = 7
    topic: TopicNumber
    backoff_s: Annotated[int, msgspec.Meta(ge=0, le=GOSSIP_BACKOFF_S_MAX)]


class IHave(Message, frozen=True):
    """Units of this topic that the sender has taken in lately and would send on request."""

    KIND = 8
    topic: TopicNumber
    ids: GossipIds


class IWant(Message, frozen=True):
    """Ask for units by id."""

    KIND = 9
    ids: GossipIds


class IDontWant(Message, frozen=True):
    """The sender has these units already: they need not be sent to it."""

    KIND = 10
    ids: GossipIds


class Transactions(Message, frozen=True):
    """Gossip of signed transactions."""

    KIND = 16
    transactions: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=TRANSACTION_BYTES_MAX)], ...], msgspec.Meta(max_length=1024)
    ]


class BlockProposal(Message, frozen=True):
    """A signed proposal with its whole block."""

    KIND = 17
    PRIORITY = Priority.CONSENSUS
    proposal: VoteBytes
    block: Annotated[bytes, msgspec.Meta(max_length=BLOCK_BYTES_MAX)]


class Votes(Message, frozen=True):
    """Gossip of signed consensus votes, in batches."""

    KIND = 18
    PRIORITY = Priority.CONSENSUS
    votes: Annotated[tuple[VoteBytes, ...], msgspec.Meta(max_length=512)]


class ProofOfLock(Message, frozen=True):
    """An encoded `LockProof`: the prevotes that justify a re-proposal or a lock, in one piece."""

    KIND = 19
    PRIORITY = Priority.CONSENSUS
    proof: LockProofBytes


class BlocksRequest(Message, frozen=True):
    """Ask for committed blocks from a height on."""

    KIND = 20
    request: RequestId
    from_height: Height
    count: Annotated[int, msgspec.Meta(ge=1, le=SYNC_BLOCKS_MAX)]


class Blocks(Message, frozen=True):
    """Committed blocks with their certificates, in order of height; may hold fewer than asked."""

    KIND = 21
    request: RequestId
    blocks: Annotated[tuple[tuple[bytes, bytes], ...], msgspec.Meta(max_length=SYNC_BLOCKS_MAX)]


class HeadersRequest(Message, frozen=True):
    """Ask for light blocks from a height on."""

    KIND = 22
    request: RequestId
    from_height: Height
    count: Annotated[int, msgspec.Meta(ge=1, le=SYNC_BLOCKS_MAX)]


class Headers(Message, frozen=True):
    """Light blocks: encoded header, certificate, and validator set of that height."""

    KIND = 23
    request: RequestId
    headers: Annotated[tuple[tuple[bytes, bytes, bytes], ...], msgspec.Meta(max_length=SYNC_BLOCKS_MAX)]


class ProofRequest(Message, frozen=True):
    """Ask for a state entry with its Merkle proof at the latest height."""

    KIND = 24
    request: RequestId
    key: Annotated[bytes, msgspec.Meta(max_length=128)]


class ProofReply(Message, frozen=True):
    """A state entry (None: proven absent) under the state root of `height`, with the encoded proof."""

    KIND = 25
    request: RequestId
    height: Height
    value: bytes | None
    proof: bytes


class SnapshotsRequest(Message, frozen=True):
    """Ask of which heights the peer would hand over its whole state."""

    KIND = 26
    request: RequestId


class Snapshots(Message, frozen=True):
    """Heights whose state the sender hands over, ascending."""

    KIND = 27
    request: RequestId
    heights: Annotated[tuple[Height, ...], msgspec.Meta(max_length=SNAPSHOTS_OFFERED_MAX)]


class SnapshotChunkRequest(Message, frozen=True):
    """Ask for the chunk of the state after `height` that is responsible for the path `cursor`."""

    KIND = 28
    request: RequestId
    height: Height
    cursor: Digest


class SnapshotChunk(Message, frozen=True):
    """An encoded `StateChunk`; None where the sender doesn't hand over the state of that height."""

    KIND = 29
    PRIORITY = Priority.BULK
    request: RequestId
    chunk: bytes | None


class LightAttackReport(Message, frozen=True):
    """Two headers of one height that both follow, for a light client, from a common one; see `consensus.forensics`."""

    KIND = 30
    common_height: Height
    common_id: Digest
    evidence: EvidenceBytes


class HaveRequest(Message, frozen=True):
    """Ask which of these blobs and chunks the peer would serve us."""

    KIND = 32
    request: RequestId
    digests: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=WANT_DIGESTS_MAX)]


class HaveReply(Message, frozen=True):
    """Bitmap over the request's digests, bit i of byte i // 8."""

    KIND = 33
    request: RequestId
    bitmap: Annotated[bytes, msgspec.Meta(max_length=WANT_DIGESTS_MAX // 8)]


class BlobRequest(Message, frozen=True):
    """Ask for a blob or chunk by content address."""

    KIND = 34
    request: RequestId
    digest: Digest


class BlobStatus(IntEnum):
    """How a blob request was answered."""

    FOUND = 0
    NOT_FOUND = 1
    NOT_LICENSED = 2
    BUSY = 3


class BlobReply(Message, frozen=True):
    """Answer to `BlobRequest`; when found, the bytes are the frame's attachment."""

    KIND = 35
    PRIORITY = Priority.BULK
    ATTACHES = True
    request: RequestId
    digest: Digest
    status: BlobStatus


class RangeRequest(Message, frozen=True):
    """Ask for blocks of a blob or chunk, from `first_block` on; at its end there may be fewer."""

    KIND = 36
    request: RequestId
    digest: Digest
    first_block: Count
    block_count: Annotated[int, msgspec.Meta(ge=1, le=RANGE_BLOCKS_MAX)]


class RangeReply(Message, frozen=True):
    """Answer to `RangeRequest`; when found, the blocks are the frame's attachment, and `size` is that of the blob."""

    KIND = 37
    PRIORITY = Priority.BULK
    ATTACHES = True
    request: RequestId
    digest: Digest
    status: BlobStatus
    size: Annotated[int, msgspec.Meta(ge=0, le=BLOB_BYTES_MAX)]
    first_block: Count
    proof: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=RANGE_PROOF_DIGESTS_MAX)]


CATALOGUE: dict[int, type[Message]] = {
    kind.KIND: kind
    for kind in (
        Peers,
        Status,
        Graft,
        Prune,
        IHave,
        IWant,
        IDontWant,
        Transactions,
        BlockProposal,
        Votes,
        ProofOfLock,
        BlocksRequest,
        Blocks,
        HeadersRequest,
        Headers,
        ProofRequest,
        ProofReply,
        SnapshotsRequest,
        Snapshots,
        SnapshotChunkRequest,
        SnapshotChunk,
        LightAttackReport,
        HaveRequest,
        HaveReply,
        BlobRequest,
        BlobReply,
        RangeRequest,
        RangeReply,
    )
}
