"""Every bound in one place; units come last in the name."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# wire
HANDSHAKE_MESSAGE_BYTES_MAX: Final = 1 * KIB
HANDSHAKE_TIMEOUT_S: Final = 10.0
BODY_BYTES_MAX: Final = 4 * MIB
"""Decompressed MessagePack body of one frame."""
ATTACHMENT_BYTES_MAX: Final = 8 * MIB
FRAME_BYTES_MAX: Final = BODY_BYTES_MAX + ATTACHMENT_BYTES_MAX + 4 * KIB
PEERS_MAX: Final = 64
PEERS_PER_IP_MAX: Final = 48
PENDING_HANDSHAKES_MAX: Final = 128
OUTBOUND_QUEUE_FRAMES_MAX: Final = 1024
PING_INTERVAL_S: Final = 15.0
LINK_IDLE_TIMEOUT_S: Final = 60.0
PEER_SCORE_BAN: Final = 100
PEER_BAN_S: Final = 600.0
PEER_SCORE_DECAY_PER_S: Final = 0.2
SEEN_CACHE_ENTRIES_MAX: Final = 1 << 16

# consensus and ledger
TRANSACTION_BYTES_MAX: Final = 128 * KIB
BLOCK_BYTES_MAX: Final = 2 * MIB
BLOCK_TRANSACTIONS_MAX: Final = 2000
VALIDATORS_MAX: Final = 256
MEMPOOL_TRANSACTIONS_MAX: Final = 10_000
MEMPOOL_PER_SENDER_MAX: Final = 64
SYNC_BLOCKS_MAX: Final = 64
"""Blocks or headers in one reply."""
FUTURE_ROUNDS_MAX: Final = 16
"""Rounds ahead of ours for which votes of one height are kept."""

# data
SEGMENT_BYTES_MAX: Final = 4 * KIB
SEGMENTS_MAX: Final = 64
"""Segments in one proposal."""

# training rounds and scores
TRAINERS_MAX: Final = 64
PROBES_MAX: Final = 256
SKETCH_BUCKETS: Final = 256

# shards
BLOB_BYTES_MAX: Final = ATTACHMENT_BYTES_MAX
"""Any content-addressed object: text segment, manifest, file part, chunk. One frame carries it."""
FILE_PART_BYTES_MAX: Final = 4 * MIB
CHUNK_DECODED_BYTES_TARGET: Final = 2 * MIB
CHUNK_DECODED_BYTES_MAX: Final = 4 * MIB
CHUNK_BYTES_MAX: Final = CHUNK_DECODED_BYTES_MAX + 64 * KIB
MANIFEST_BYTES_MAX: Final = BLOB_BYTES_MAX
MANIFEST_SHARDS_MAX: Final = 1 << 17
WANT_DIGESTS_MAX: Final = 1024

# node
MAILBOX_MESSAGES_MAX: Final = 1024
HTTP_BODY_BYTES_MAX: Final = 1 * MIB
COMPUTE_MESSAGE_BYTES_MAX: Final = 64 * MIB
