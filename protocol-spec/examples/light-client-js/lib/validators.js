// Validator sets (10.1) and commit certificates (10.4).

import { taggedHash } from './blake3.js';
import { addressOf, verify } from './ed25519.js';
import { malformed, RemoteError } from './errors.js';
import * as limits from './limits.js';
import { decode, encode, int, list, record, text } from './msgpack.js';
import { address, amount, digest, height, publicKey, round, signature } from './types.js';

const NO_BLOCK = Buffer.alloc(32);
const POWER_MAX = 2n ** 62n;
export const PREVOTE = 1;
export const PRECOMMIT = 2;

const Validator = record('Validator', { address, publicKey, power: amount });
export const ValidatorSet = record('ValidatorSet', { validators: list(Validator, limits.VALIDATORS_MAX, 1) });
const CommitSignature = record('CommitSignature', { validator: address, signature });
export const CommitCertificate = record('CommitCertificate', {
  height,
  round,
  blockId: digest,
  signatures: list(CommitSignature, limits.VALIDATORS_MAX),
});

/** The set, if it keeps the rules of 10.1/1; throws MalformedMessage if not. */
export function checkValidators(set) {
  const { validators } = set;
  validators.forEach((each, i) => {
    if (i > 0 && Buffer.compare(validators[i - 1].address, each.address) >= 0)
      throw malformed('validators are not in order');
    if (!addressOf(each.publicKey).equals(each.address)) throw malformed('a validator with an address of another key');
    if (each.power < 1n) throw malformed('a validator without power');
  });
  if (totalPower(set) > POWER_MAX) throw malformed(`validators of power ${totalPower(set)} in all`);
  return set;
}

export const decodeValidators = (bytes) => checkValidators(decode(bytes, ValidatorSet, limits.VALIDATOR_SET_BYTES_MAX));

export const validatorsHash = (set) => taggedHash('validator set', encode(set, ValidatorSet)); // 10.1/2

export const totalPower = ({ validators }) => validators.reduce((sum, { power }) => sum + power, 0n);

/** Power of those validators of a set whose addresses are given; each counts once. */
export function powerOf({ validators }, addresses) {
  const signers = new Set(addresses.map((each) => each.toString('hex')));
  return validators.reduce((sum, each) => (signers.has(each.address.toString('hex')) ? sum + each.power : sum), 0n);
}

export const isQuorum = (set, power) => 3n * power > 2n * totalPower(set); // 10.1/3
export const holdsHonest = (set, power) => 3n * power > totalPower(set); // 10.1/3

// What a vote's signature is over (9.2/2).
const VoteSignBytes = record('VoteSignBytes', {
  chainId: text(),
  kind: int(1, 2),
  height,
  round,
  validRound: int(-1, 2 ** 31 - 1),
  blockId: digest,
});

export const voteSignBytes = (chainId, vote) => encode({ chainId, ...vote }, VoteSignBytes);

const invalid = (message) => new RemoteError('InvalidCertificate', message);

/** Check that a certificate proves this block decided by these validators (10.4); the signatures come last (10.4/5). */
export function verifyCertificate(chainId, set, certificate, blockId, blockHeight) {
  const { round: number, signatures } = certificate;
  if (certificate.height !== blockHeight)
    throw invalid(`certificate of height ${certificate.height}, expected ${blockHeight}`);
  if (blockId.equals(NO_BLOCK)) throw invalid('certificate for no block');
  if (!certificate.blockId.equals(blockId)) throw invalid('certificate of another block');
  const keys = new Map(set.validators.map((each) => [each.address.toString('hex'), each.publicKey]));
  signatures.forEach(({ validator }, i) => {
    if (i > 0 && Buffer.compare(signatures[i - 1].validator, validator) >= 0) throw invalid('signers are not in order');
    if (!keys.has(validator.toString('hex'))) throw invalid(`signer ${validator.toString('hex')} is no validator`);
  });
  const power = powerOf(
    set,
    signatures.map(({ validator }) => validator),
  );
  if (!isQuorum(set, power)) {
    throw new RemoteError(
      'InsufficientPower',
      `signed by power ${power} of ${totalPower(set)}, more than 2/3 is needed`,
    );
  }
  const precommit = { kind: PRECOMMIT, height: blockHeight, round: number, validRound: -1, blockId };
  const signed = voteSignBytes(chainId, precommit);
  for (const { validator, signature: each } of signatures) {
    if (!verify(keys.get(validator.toString('hex')), 'vote', signed, each)) {
      throw invalid(`signature of ${validator.toString('hex')} does not hold`);
    }
  }
}
