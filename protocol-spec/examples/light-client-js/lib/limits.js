// Bounds (chapter 12).

const KIB = 1024;
const MIB = 1024 * KIB;

// Handshake and link.
export const HANDSHAKE_MESSAGE_BYTES_MAX = KIB;
export const HANDSHAKE_TIMEOUT_S = 10;
export const DIAL_TIMEOUT_S = 10;
export const PACKET_BYTES_MAX = 64 * KIB + 256;
export const DATA_BYTES_MAX = 64 * KIB;
export const BODY_BYTES_MAX = 4 * MIB;
export const ATTACHMENT_BYTES_MAX = 8 * MIB;
export const FRAME_CHARGE_BYTES = 256;
export const STREAM_CREDIT_BYTES = MIB;
export const BULK_CREDIT_BYTES = DATA_BYTES_MAX + FRAME_CHARGE_BYTES;
export const BULK_WINDOW_BYTES_MIN = 256 * KIB;
export const STREAMS_OPEN_MAX = 16;
export const REKEY_PACKETS = 1 << 16;
export const REKEY_BYTES = 1024 * MIB;
export const PING_BURST_MAX = 16;
export const PING_RATE_MAX = 4;
export const PINGS_UNANSWERED_MAX = 8;
export const PING_INTERVAL_S = 15;
export const LINK_IDLE_TIMEOUT_S = 60;
export const GOODBYE_BYTES_MAX = 200;

// Messages and chain.
export const PEERS_MAX = 64;
export const TRANSACTION_BYTES_MAX = 128 * KIB;
export const BLOCK_BYTES_MAX = 2 * MIB;
export const WANT_DIGESTS_MAX = 1024;
export const GOSSIP_IDS_MAX = 512;
export const GOSSIP_BACKOFF_S_MAX = 3600;
export const RANGE_BLOCKS_MAX = 64;
export const RANGE_PROOF_DIGESTS_MAX = 64;
export const SYNC_BLOCKS_MAX = 64;
export const SNAPSHOTS_OFFERED_MAX = 8;
export const VALIDATORS_MAX = 256;
export const LOCK_PROOF_BYTES_MAX = 32 * 1024;
export const EVIDENCE_BYTES_MAX = 140 * KIB;
export const HEADER_BYTES_MAX = 2 * KIB;
export const CERTIFICATE_BYTES_MAX = 32 * KIB;
export const VALIDATOR_SET_BYTES_MAX = 32 * KIB;
export const CLOCK_DRIFT_MS_MAX = 10_000;

// Shards.
export const BLOB_BYTES_MAX = ATTACHMENT_BYTES_MAX;
export const MANIFEST_BYTES_MAX = BLOB_BYTES_MAX;
export const MANIFEST_SHARDS_MAX = 1 << 17;
export const MANIFEST_FILES_MAX = 64;
export const SHARD_SLICES_MAX = 4096;
export const TENSOR_DIMENSIONS_MAX = 8;
export const LORA_RANK_MAX = 128;
export const FILE_PART_BYTES_MAX = 4 * MIB;
export const CHUNK_DECODED_BYTES_MAX = 4 * MIB;
export const CHUNK_BYTES_MAX = CHUNK_DECODED_BYTES_MAX + 64 * KIB;
