// The types that vectors name: those of the client, and others of the chapters that tell whether the codec is right.

import { Claims } from '../lib/handshake.js';
import { Header } from '../lib/light.js';
import { decoderOf } from '../lib/messages.js';
import { bool, bytes, int, list, optional, record, text, tuple } from '../lib/msgpack.js';
import * as types from '../lib/types.js';
import { CommitCertificate, ValidatorSet } from '../lib/validators.js';

const anyInt = int(-(2n ** 63n), 2n ** 64n - 1n);
const anyBytes = bytes(0, Infinity);

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
  ValidRound: int(-1, 2 ** 31 - 1),
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
  Vote: record('Vote', {
    kind: int(1, 2), height: types.height, round: types.round, blockId: types.digest, validator: types.address, signature: types.signature,
  }),
  Account: record('Account', {
    nonce: types.count,
    balance: types.amount,
    locked: types.amount,
    unbonding: list(record('Unbonding', { amount: types.amount, releaseHeight: types.height })),
  }),
};
