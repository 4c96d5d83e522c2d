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
PEERS_MAX: Final = 64
PEERS_PER_IP_MAX: Final = 48
PENDING_HANDSHAKES_MAX: Final = 256
OUTBOUND_QUEUE_FRAMES_MAX: Final = 1024
PACKET_BYTES_MAX: Final = 64 * KIB + 256
"""Plain text of one packet."""
DATA_BYTES_MAX: Final = 64 * KIB
"""Payload in one packet."""
COMPRESS_BYTES_MIN: Final = 256
"""Smaller bodies don't shrink enough to pay for two calls."""
GOODBYE_BYTES_MAX: Final = 200
STREAMS_OPEN_MAX: Final = 16
"""Bulk streams that a peer may open beyond those we are done with."""
STREAM_CREDIT_BYTES: Final = 1 * MIB
"""Payload under way on the consensus stream, and on the gossip stream, without further credit."""
FRAME_CHARGE_BYTES: Final = 256
"""What a frame takes of its stream's credit besides body and attachment."""
BULK_CREDIT_BYTES: Final = DATA_BYTES_MAX + 4 * KIB
"""Payload that may be sent on a bulk stream without further credit."""
BULK_WINDOW_BYTES_MIN: Final = 256 * KIB
BULK_WINDOW_BYTES_MAX: Final = 8 * MIB
"""Credit for bulk given and not used; between these bounds it follows what the link carries in a round trip."""
PEER_REASSEMBLY_BYTES_MAX: Final = 32 * MIB
NODE_REASSEMBLY_BYTES_MAX: Final = 256 * MIB
"""Payload under way beyond every stream's first credit: of one peer, of all."""
PING_BURST_MAX: Final = 16
PING_RATE_MAX: Final = 4.0
"""PINGs a second in the long run."""
PINGS_UNANSWERED_MAX: Final = 8
PING_INTERVAL_S: Final = 15.0
LINK_IDLE_TIMEOUT_S: Final = 60.0
PEER_SCORE_BAN: Final = 100
PEER_BAN_S: Final = 600.0
PEER_SCORE_DECAY_PER_S: Final = 0.2
SEEN_CACHE_ENTRIES_MAX: Final = 1 << 16
REKEY_PACKETS: Final = 1 << 16
REKEY_BYTES: Final = 1024 * MIB
"""A direction of a link moves to its next key before it has sealed more packets or bytes of boxes."""
OUTBOUND_QUEUE_BYTES_MAX: Final = 64 * MIB
"""Queued frames of one link that aren't bulk."""
BULK_QUEUE_BYTES_MAX: Final = 32 * MIB
NETWORK_EVENTS_MAX: Final = 64
LEARNED_ENDPOINTS_MAX: Final = 256
PEER_RECORDS_MAX: Final = 4096
"""Keys whose score or traffic is remembered; any number of keys costs a peer nothing."""
DIAL_TIMEOUT_S: Final = 10.0
DIAL_BACKOFF_MIN_S: Final = 0.25
DIAL_BACKOFF_MAX_S: Final = 8.0
LEARNED_DIAL_FAILURES_MAX: Final = 5
LINK_CLOSE_TIMEOUT_S: Final = 1.0

# gossip mesh
GOSSIP_DEGREE: Final = 8
"""Peers in the mesh of a topic that we aim at; with at most `GOSSIP_DEGREE_HIGH` peers all are in it."""
GOSSIP_DEGREE_LOW: Final = 6
GOSSIP_DEGREE_HIGH: Final = 12
GOSSIP_DEGREE_OUTBOUND: Final = 2
"""Members of a mesh that we dialled: nobody fills it by dialling us. They may exceed the high bound by this number."""
GOSSIP_DEGREE_BEST: Final = 4
"""Members with the best scores that stay when a mesh is cut."""
GOSSIP_LAZY_PEERS: Final = 6
"""Peers told at a heartbeat what is new."""
GOSSIP_SUBNET_MESH_MAX: Final = 3
"""Members of a mesh from one IPv4 /24 or IPv6 /64; loopback and private addresses aren't counted by default."""
GOSSIP_HEARTBEAT_S: Final = 1.0
GOSSIP_CACHE_WINDOWS: Final = 6
"""Heartbeats for which an accepted unit can be asked for."""
GOSSIP_ADVERTISED_WINDOWS: Final = 3
"""Heartbeats for which it is advertised."""
GOSSIP_CACHE_UNITS_MAX: Final = 8192
GOSSIP_CACHE_BYTES_MAX: Final = 32 * MIB
"""Of each topic."""
GOSSIP_SEEN_S: Final = 120.0
"""A unit is remembered as seen for half of this time at least, and for all of it at most."""
GOSSIP_REJECTED_MAX: Final = 4096
GOSSIP_BACKOFF_S: Final = 60
"""Pause that we ask for with PRUNE."""
GOSSIP_BACKOFF_S_MAX: Final = 3600
GOSSIP_BACKOFFS_MAX: Final = 4096
GOSSIP_IDS_MAX: Final = 512
"""Ids in one control message."""
GOSSIP_CONTROLS_PER_HEARTBEAT_MAX: Final = 64
"""Control messages of one peer that are looked at between two heartbeats."""
GOSSIP_IHAVES_PER_HEARTBEAT_MAX: Final = 10
"""IHAVEs of one peer that are looked at between two heartbeats."""
GOSSIP_IHAVE_IDS_PER_HEARTBEAT_MAX: Final = 1024
"""Ids that we advertise to one peer, and ids that we ask of one peer, between two heartbeats."""
GOSSIP_IWANT_IDS_PER_HEARTBEAT_MAX: Final = 4096
"""Ids asked by one peer that are looked up between two heartbeats."""
GOSSIP_IWANT_SERVED_MAX: Final = 3
"""Times that one unit is sent to one peer on request."""
GOSSIP_IWANT_BYTES_PER_HEARTBEAT_MAX: Final = 8 * MIB
"""Sent to one peer on request between two heartbeats."""
GOSSIP_ASK_AGAIN_S: Final = 1.0
"""A unit that was asked for and hasn't come may be asked of another peer after this time."""
GOSSIP_PROMISE_S: Final = 3.0
"""A unit that was asked for and hasn't come from anybody after this time is a broken promise."""
GOSSIP_PROMISES_MAX: Final = 1024
"""Units asked of one peer that haven't come yet."""
GOSSIP_ASKED_PEERS_MAX: Final = 3
"""Peers asked for one unit."""
GOSSIP_IDONTWANT_BYTES_MIN: Final = 16 * KIB
"""Units of this size or more are announced by IDONTWANT."""
GOSSIP_IDONTWANTS_PER_HEARTBEAT_MAX: Final = 16
"""IDONTWANTs that we send to one peer between two heartbeats."""
GOSSIP_IDONTWANT_IDS_MAX: Final = 1024
"""Ids that one peer doesn't want and that are remembered."""
GOSSIP_VOTE_COPIES: Final = 2
"""Copies of a vote that are welcome; whoever sends another is told to spare us its author's votes."""
GOSSIP_SPARED_MAX: Final = 256
"""Authors whose votes one peer is spared."""
GOSSIP_SPARED_HEARTBEATS: Final = 60
"""Heartbeats for which it is spared them; links change."""
GOSSIP_FLOOD_BYTES_MAX: Final = 64 * KIB
"""Own units up to this size go to every peer at once, larger ones to the mesh."""
GOSSIP_FIRST_DELIVERIES_MAX: Final = 100.0
GOSSIP_FAULTS_MAX: Final = 1000.0
"""Where counters of a score stop."""
GOSSIP_SCORE_GOSSIP: Final = -10.0
"""Below this score a peer is neither told what is new nor heard when it tells or asks."""
GOSSIP_SCORE_PUBLISH: Final = -50.0
"""Below this score it doesn't get our own units."""
GOSSIP_SCORE_GRAYLIST: Final = -80.0
"""Below this score it isn't heard at all."""
VOTES_PER_STEP_MAX: Final = 3
"""Votes of one validator in one round and step that are taken in: two prove equivocation."""
FAR_VOTES_MAX: Final = 4
"""Votes of one validator for rounds further ahead than `FUTURE_ROUNDS_MAX` that are taken in."""
LOCK_PROOFS_PER_ROUND_MAX: Final = 4
"""Proofs-of-lock of one round that are taken in; a second block's already takes a third of the power voting twice."""
LOCK_PROOF_BYTES_MAX: Final = 32 * 1024
"""An encoded proof-of-lock: `VALIDATORS_MAX` prevotes of at most 95 bytes, and its head."""
PROPOSALS_TAKEN_PER_ROUND_MAX: Final = 16
"""Proposals of one round that are looked at."""
PROPOSALS_PER_HEIGHT_MAX: Final = 64
"""Proposals of one height that are kept with their blocks."""

# consensus and ledger
TRANSACTION_BYTES_MAX: Final = 128 * KIB
BLOCK_BYTES_MAX: Final = 2 * MIB
BLOCK_TRANSACTIONS_MAX: Final = 2000
VALIDATORS_MAX: Final = 256
MEMPOOL_TRANSACTIONS_MAX: Final = 10_000
MEMPOOL_PER_SENDER_MAX: Final = 64
SYNC_BLOCKS_MAX: Final = 64
"""Blocks or headers in one reply."""
SYNC_BUFFER_BYTES_MAX: Final = 24 * MIB
"""Blocks that have come out of order and wait for those before them, and room for those that were asked for."""
SNAPSHOTS_OFFERED_MAX: Final = 8
"""Heights in one list of snapshots."""
SNAPSHOT_CHUNK_BYTES_MAX: Final = 1 * MIB
"""Keys and values of one chunk of a state, with 64 bytes for each entry; a larger entry is a chunk of its own."""
SNAPSHOT_CHUNK_ENTRIES_MAX: Final = 1 << 14
FUTURE_ROUNDS_MAX: Final = 16
"""Rounds ahead of ours for which votes of one height are kept."""
CLOCK_DRIFT_MS_MAX: Final = 10_000
"""How far ahead of our clock the time of a proposed or untrusted header may be."""
HEADER_BYTES_MAX: Final = 2 * KIB
CERTIFICATE_BYTES_MAX: Final = 32 * KIB
VALIDATOR_SET_BYTES_MAX: Final = 32 * KIB
EVIDENCE_BYTES_MAX: Final = 140 * KIB
"""Evidence in a file; the largest are two headers, each with its certificate and validator set."""

# light client
WITNESSES_MAX: Final = 3
"""Peers asked to show their header of a height before it is trusted."""
WITNESSES_AGREE_MIN: Final = 1
"""Of them, how many have to show the same."""
WITNESS_PATIENCE_S: Final = 2.0
"""For a witness that doesn't answer, that lags, or that isn't there."""
WITNESS_PAUSE_S: Final = 30.0
"""For which a witness that was waited for in vain isn't asked."""
LIGHT_QUERY_TIMEOUT_S: Final = 5.0
LIGHT_RETRY_S: Final = 1.0
LIGHT_RETRY_S_MAX: Final = 8.0
"""Before the only peer that there is is asked again for what it didn't show; doubled each time."""
LIGHT_BLOCKS_MAX: Final = 32
"""Trusted light blocks that are kept, the newest ones."""
LIGHT_BACKWARD_HEADERS_MAX: Final = 4096
"""How far below a trusted header an old one is looked up by parent ids."""
LIGHT_WANTED_MAX: Final = 64
"""Old headers looked up at a time."""

# data
SEGMENT_BYTES_MAX: Final = 4 * KIB
SEGMENTS_MAX: Final = 64
"""Segments in one proposal."""
OPEN_PROPOSALS_MAX: Final = 1024
"""Data proposals that are being voted on at a time; each costs every block a look."""
ROUND_SEGMENTS_MAX: Final = 4096
"""Segments in the frozen batch of one training round."""
AUDITS_MAX: Final = 64
"""Shards drawn for an audit in one epoch."""
AUDITS_KEPT: Final = 16
"""Epochs whose audits the state keeps."""
UNBONDING_ENTRIES_MAX: Final = 16
"""Withdrawals of one account that wait for their delay."""

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
MANIFEST_FILES_MAX: Final = 64
SHARD_SLICES_MAX: Final = 4096
SHARD_CHUNKS_MAX: Final = 65
"""Chunks that it takes to decode a shard: its own, and those of the versions that its deltas are stacked on."""
TENSOR_DIMENSIONS_MAX: Final = 8
LORA_RANK_MAX: Final = 128
"""Of the factors that a shard is stored as, and of a recipe."""
LORA_LAYERS_MAX: Final = 64
"""Names of layers in a recipe."""
WANT_DIGESTS_MAX: Final = 1024
RANGE_BLOCKS_MAX: Final = 64
"""Blocks of 16 KiB in one range reply."""
RANGE_PROOF_DIGESTS_MAX: Final = 64
PARTIALS_MAX: Final = 64
"""Blobs that have come in part and wait on disk for the rest."""
PARTIAL_AGE_S_MAX: Final = 7 * 24 * 3600.0
LEAVES_CACHED_MAX: Final = 1 << 16
"""Leaf hashes of blobs being served in ranges, kept in memory: some 70 bytes for 16 KiB."""
VERSIONS_KEPT: Final = 2
"""Versions before the newest whose shards a validator keeps."""
SHARD_GRACE_BLOCKS: Final = 1000
"""How long a validator keeps shards that no longer fall to it, so that the others can fetch them."""
SCRUB_BYTES_PER_S: Final = 2 * MIB
"""Read of the store to see whether it is still right: 16 GB in some two hours."""
SCRUB_PAUSE_S: Final = 3600.0
"""Between two passes over the store."""
AWAY_BLOCKS: Final = 300
"""Who signs none of so many blocks, and is no peer, is away: others keep its shards meanwhile."""
PEERS_REMEMBERED_MAX: Final = 1024
"""Peers whose transfer totals are kept."""

# node
MAILBOX_MESSAGES_MAX: Final = 1024
HTTP_BODY_BYTES_MAX: Final = 1 * MIB
HTTP_BODY_TIMEOUT_S: Final = 30.0
CHAT_MESSAGES_MAX: Final = 256
"""Turns of one conversation; their texts are bounded by the body."""
CHAT_TOKENS_MAX: Final = 4096
"""Tokens one answer may ask for."""
COMPUTE_MESSAGE_BYTES_MAX: Final = 64 * MIB
KEY_FILE_BYTES_MAX: Final = 16 * KIB
"""A key file, or the line of a passphrase file."""
