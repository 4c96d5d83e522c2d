// The types that vectors name: those of the client, and others of the chapters that tell whether the codec is right.

import { Claims } from '../lib/handshake.js';
import { Header } from '../lib/light.js';
import { decoderOf } from '../lib/messages.js';
import { RemoteError } from '../lib/errors.js';
import { ShardEntry } from '../lib/manifest.js';
import { bool, bytes, enumeration, int, list, optional, record, text, tuple } from '../lib/msgpack.js';
import * as types from '../lib/types.js';
import { CommitCertificate, ValidatorSet } from '../lib/validators.js';

const anyInt = int(-(2n ** 63n), 2n ** 64n - 1n);
const anyBytes = bytes(0, Infinity);
const validRound = int(-1, 2 ** 31 - 1);

export const TYPES = {
  int: anyInt,
  bool,
  bytes: anyBytes,
  str: text(),
  Count: types.count,
  Height: types.height,
  Amount: types.amount,
  BasisPoints: types.basisPoints,
  Millinats: types.millinats,
  ValidRound: validRound,
  Digest: types.digest,
  PublicKey: types.publicKey,
  Signature: types.signature,
  Address: types.address,
  'Digest or none': optional(types.digest),
  'str(1..4)': text(4, 1),
  'bytes(2..4)': bytes(2, 4),
  'list(1..3) of Count': list(types.count, 3, 1),
  'list of int': list(anyInt),
  'list of bytes': list(anyBytes),
  'tuple (Count, str)': tuple(types.count, text()),
  Status: decoderOf(5),
  Peers: decoderOf(4),
  ProofReply: decoderOf(25),
  BlobReply: decoderOf(35),
  Claims,
  Header,
  CommitCertificate,
  ValidatorSet,
  ShardEntry,
  Vote: record('Vote', {
    kind: int(1, 2),
    height: types.height,
    round: types.round,
    validRound,
    blockId: types.digest,
    validator: types.address,
    signature: types.signature,
  }),
  LockProof: record('LockProof', {
    height: types.height,
    round: types.round,
    blockId: types.digest,
    votes: list(
      record('LockProofVote', { validator: types.address, validRound, signature: types.signature }),
      256,
    ),
  }),
  Proposal: record('Proposal', {
    height: types.height,
    round: types.round,
    validRound,
    blockId: types.digest,
    proposer: types.address,
    signature: types.signature,
  }),
  ProposalSignBytes: record('ProposalSignBytes', {
    chainId: text(),
    height: types.height,
    round: types.round,
    validRound,
    blockId: types.digest,
  }),
  Account: record('Account', {
    nonce: types.count,
    balance: types.amount,
    locked: types.amount,
    unbonding: list(record('Unbonding', { amount: types.amount, releaseHeight: types.height })),
  }),
};

// Transactions (11.2), which a light client only passes by. A tagged record is a list that begins with its tag (2.2/3).

function tagged(actions) {
  const records = new Map(
    Object.entries(actions).map(([tag, fields]) => [tag, record(tag, { tag: enumeration(tag), ...fields })]),
  );
  return {
    encode: (value) => records.get(value.tag).encode(value),
    read(reader) {
      const start = reader.offset;
      reader.arrayLength();
      const tag = reader.text();
      if (!records.has(tag)) throw new RemoteError('MalformedMessage', `unknown tag ${tag}`);
      reader.offset = start;
      return records.get(tag).read(reader);
    },
  };
}

const { address, amount, basisPoints, count, digest, millinats, publicKey } = types;
const shortText = text(64);
const axisScores = record('AxisScores', {
  novelty: basisPoints,
  reproducibility: basisPoints,
  alignment: basisPoints,
  truthfulness: basisPoints,
  objectivity: basisPoints,
});
const probeScore = record('ProbeScore', {
  logProb: millinats,
  conditionalCurvature: millinats,
  perturbationCurvature: millinats,
});
const submissionReport = record('SubmissionReport', {
  trainer: address,
  available: bool,
  profile: list(probeScore, 256),
  sketch: list(int(-(2n ** 62n), 2n ** 62n), 256),
});
const segmentRef = record('SegmentRef', { digest, size: count });
const reportScores = { round: count, submissions: list(submissionReport, 64), base: list(probeScore, 256) };
const actions = {
  transfer: { to: address, amount },
  bond: { amount, onionTip: digest },
  unbond: { amount },
  'propose-data': {
    segments: list(segmentRef, 64, 1),
    title: shortText,
    language: shortText,
    licence: shortText,
    stake: amount,
  },
  'commit-vote': { proposal: digest, commitment: digest },
  'reveal-vote': {
    proposal: digest,
    scores: list(axisScores, 64, 1),
    accept: bool,
    harmful: bool,
    predictedAcceptBp: basisPoints,
    salt: digest,
  },
  'join-round': { round: count, stake: amount },
  'commit-weights': { round: count, commitment: digest },
  'reveal-weights': {
    round: count,
    manifest: digest,
    weightsRoot: digest,
    chunksRoot: digest,
    shardCount: types.shardCount,
    checkpointRoot: digest,
    salt: digest,
  },
  'report-scores': reportScores,
  'buy-licence': { version: count, priceMax: amount },
};
TYPES.Action = tagged(actions);
TYPES.ReportScores = tagged({ 'report-scores': reportScores });
TYPES.TransactionBody = record('TransactionBody', {
  chainId: text(50, 1),
  sender: publicKey,
  nonce: count,
  action: TYPES.Action,
});
