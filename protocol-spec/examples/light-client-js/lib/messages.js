// The catalogue of messages (6.2): kind, class, attachment and fields. A light client sends few of them, but checks the
// form of all.

import { malformed } from './errors.js';
import * as limits from './limits.js';
import { bytes, decode, encode, enumeration, int, list, optional, record, text, tuple } from './msgpack.js';
import { count as blockNumber, digest, height } from './types.js';

const requestId = int(0, 2n ** 62n);
const anyBytes = bytes(0, limits.BODY_BYTES_MAX);

/** 6.2 */
export const BlobStatus = Object.freeze({ FOUND: 0, NOT_FOUND: 1, NOT_LICENSED: 2, BUSY: 3 });
export const statusName = (status) => Object.keys(BlobStatus)[status];
const blobStatus = enumeration(...Object.values(BlobStatus));

export const Kind = Object.freeze({
  PEERS: 4,
  STATUS: 5,
  HEADERS_REQUEST: 22,
  HEADERS: 23,
  PROOF_REQUEST: 24,
  PROOF_REPLY: 25,
  RANGE_REQUEST: 36,
  RANGE_REPLY: 37,
});

const kind = (number, name, streamClass, fields, hasAttachment = false) => [
  number,
  { ...record(name, fields), streamClass, hasAttachment },
];
const count = int(1, limits.SYNC_BLOCKS_MAX);
const topic = int(0, 255);
const ids = list(bytes(16), limits.GOSSIP_IDS_MAX);

const CATALOGUE = new Map([
  kind(4, 'Peers', 'gossip', { addresses: list(text(280), limits.PEERS_MAX) }),
  kind(5, 'Status', 'consensus', { height }),
  kind(6, 'Graft', 'gossip', { topic }),
  kind(7, 'Prune', 'gossip', { topic, backoffS: int(0, limits.GOSSIP_BACKOFF_S_MAX) }),
  kind(8, 'IHave', 'gossip', { topic, ids }),
  kind(9, 'IWant', 'gossip', { ids }),
  kind(10, 'IDontWant', 'gossip', { ids }),
  kind(16, 'Transactions', 'gossip', { transactions: list(bytes(0, limits.TRANSACTION_BYTES_MAX), 1024) }),
  kind(17, 'BlockProposal', 'consensus', { proposal: bytes(0, 512), block: bytes(0, limits.BLOCK_BYTES_MAX) }),
  kind(18, 'Votes', 'consensus', { votes: list(bytes(0, 512), 512) }),
  kind(19, 'ProofOfLock', 'consensus', { proof: bytes(0, limits.LOCK_PROOF_BYTES_MAX) }),
  kind(20, 'BlocksRequest', 'gossip', { request: requestId, fromHeight: height, count }),
  kind(21, 'Blocks', 'gossip', { request: requestId, blocks: list(tuple(anyBytes, anyBytes), limits.SYNC_BLOCKS_MAX) }),
  kind(22, 'HeadersRequest', 'gossip', { request: requestId, fromHeight: height, count }),
  kind(23, 'Headers', 'gossip', {
    request: requestId,
    headers: list(tuple(anyBytes, anyBytes, anyBytes), limits.SYNC_BLOCKS_MAX),
  }),
  kind(24, 'ProofRequest', 'gossip', { request: requestId, key: bytes(0, 128) }),
  kind(25, 'ProofReply', 'gossip', { request: requestId, height, value: optional(anyBytes), proof: anyBytes }),
  kind(26, 'SnapshotsRequest', 'gossip', { request: requestId }),
  kind(27, 'Snapshots', 'gossip', { request: requestId, heights: list(height, limits.SNAPSHOTS_OFFERED_MAX) }),
  kind(28, 'SnapshotChunkRequest', 'gossip', { request: requestId, height, cursor: digest }),
  kind(29, 'SnapshotChunk', 'bulk', { request: requestId, chunk: optional(anyBytes) }),
  kind(30, 'LightAttackReport', 'gossip', {
    commonHeight: height,
    commonId: digest,
    evidence: bytes(0, limits.EVIDENCE_BYTES_MAX),
  }),
  kind(32, 'HaveRequest', 'gossip', { request: requestId, digests: list(digest, limits.WANT_DIGESTS_MAX) }),
  kind(33, 'HaveReply', 'gossip', { request: requestId, bitmap: bytes(0, limits.WANT_DIGESTS_MAX / 8) }),
  kind(34, 'BlobRequest', 'gossip', { request: requestId, digest }),
  kind(35, 'BlobReply', 'bulk', { request: requestId, digest, status: blobStatus }, true),
  kind(36, 'RangeRequest', 'gossip', {
    request: requestId,
    digest,
    firstBlock: blockNumber,
    blockCount: int(1, limits.RANGE_BLOCKS_MAX),
  }),
  kind(
    37,
    'RangeReply',
    'bulk',
    {
      request: requestId,
      digest,
      status: blobStatus,
      size: int(0, limits.BLOB_BYTES_MAX),
      firstBlock: blockNumber,
      proof: list(digest, limits.RANGE_PROOF_DIGESTS_MAX),
    },
    true,
  ),
]);

const REPLIES = new Map([
  [Kind.HEADERS_REQUEST, Kind.HEADERS],
  [Kind.PROOF_REQUEST, Kind.PROOF_REPLY],
  [Kind.RANGE_REQUEST, Kind.RANGE_REPLY],
]);

/** 'consensus', 'gossip' or 'bulk' (6.2/1, 5.3); null for a kind that isn't in the catalogue. */
export const classOf = (number) => CATALOGUE.get(number)?.streamClass ?? null;

/** The record of a kind's fields. */
export const decoderOf = (number) => CATALOGUE.get(number);

/** Whether messages of a kind may have an attachment (6.2/2). */
export const mayAttach = (number) => CATALOGUE.get(number)?.hasAttachment ?? true;

export const replyKindOf = (number) => REPLIES.get(number);

export const encodeMessage = (number, fields) => encode(fields, CATALOGUE.get(number));

// 6.4/1: HOST:PORT or [IPV6]:PORT.
const ENDPOINT = /^(?:[A-Za-z0-9\-_.]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(\d{1,5})$/;

/** The fields of a message's body (5.2/11). */
export function decodeMessage(number, body) {
  const message = decode(body, CATALOGUE.get(number), limits.BODY_BYTES_MAX);
  if (number === Kind.PEERS) {
    const wrong = message.addresses.find((address) => !(Number(ENDPOINT.exec(address)?.[1] ?? Infinity) <= 65535));
    if (wrong !== undefined) throw malformed('Peers with an address that is not HOST:PORT');
  }
  return message;
}
