// Headers and the light client's rules (10.2, 10.5). Time is an argument.

import { taggedHash } from './blake3.js';
import { LocalError, RemoteError } from './errors.js';
import { firstValidators, genesisHash } from './genesis.js';
import * as limits from './limits.js';
import { decode, encode, record, text } from './msgpack.js';
import { address, count, digest, height } from './types.js';
import {
  CommitCertificate,
  decodeValidators,
  holdsHonest,
  powerOf,
  totalPower,
  validatorsHash,
  verifyCertificate,
} from './validators.js';

const BLOCK_VERSION = 1; // 10.3/1

export const Header = record('Header', {
  version: count,
  chainId: text(),
  height,
  timeMs: height,
  parentId: digest,
  proposer: address,
  lastCommitHash: digest,
  transactionsRoot: digest,
  stateRoot: digest,
  receiptsRoot: digest,
  validatorsHash: digest,
  nextValidatorsHash: digest,
  manifest: digest,
  onionPreimage: digest,
});

export const blockId = (header) => taggedHash('header', encode(header, Header)); // 10.2/1

const invalid = (message) => new RemoteError('InvalidLightBlock', message);

/** A light block from its three encoded parts (10.5/1). */
export function decodeLightBlock([header, certificate, validators]) {
  return {
    header: decode(header, Header, limits.HEADER_BYTES_MAX),
    certificate: decode(certificate, CommitCertificate, limits.CERTIFICATE_BYTES_MAX),
    validators: decodeValidators(validators),
  };
}

/** What a light client trusts at first (10.5/8). */
export function trustGenesis(genesis) {
  const validators = firstValidators(genesis);
  return {
    chainId: genesis.chainId,
    height: 0n,
    blockId: genesisHash(genesis),
    timeMs: genesis.timeMs,
    validators,
    nextValidatorsHash: validatorsHash(validators),
    header: null,
  };
}

/**
 * Trust a header because a person vouches for its id: where genesis is older than the trusting period, 10.5/7 leaves no
 * other way to begin. The light block still has to be consistent with itself.
 */
export function trustHeader(chainId, block, id, nowMs, periodMs) {
  const { header } = block;
  if (!blockId(header).equals(id)) throw invalid(`header ${header.height} has another id than the one to trust`);
  const trusted = accept({ chainId, timeMs: -1n }, block, nowMs);
  checkTrust(trusted, nowMs, periodMs);
  return trusted;
}

/** Verify the header right after the trusted one (10.5/4); gives what is trusted then. */
export function verifySequential(trusted, block, nowMs, periodMs) {
  checkTrust(trusted, nowMs, periodMs);
  const { header } = block;
  if (header.height !== trusted.height + 1n) throw invalid(`header ${header.height}, expected ${trusted.height + 1n}`);
  if (!header.parentId.equals(trusted.blockId)) throw invalid(`header ${header.height} is no child of the trusted one`);
  if (!header.validatorsHash.equals(trusted.nextValidatorsHash)) {
    throw invalid(`header ${header.height} has other validators than the trusted one announced`);
  }
  return accept(trusted, block, nowMs);
}

/** Verify any later header (10.5/5); gives what is trusted then. */
export function verifySkipping(trusted, block, nowMs, periodMs) {
  const { header, certificate } = block;
  if (header.height === trusted.height + 1n) return verifySequential(trusted, block, nowMs, periodMs);
  checkTrust(trusted, nowMs, periodMs);
  if (header.height <= trusted.height) throw invalid(`header ${header.height} is not later than ${trusted.height}`); // 10.5/6
  const power = trustedPower(trusted, certificate);
  if (!holdsHonest(trusted.validators, power)) {
    const all = totalPower(trusted.validators);
    throw new RemoteError(
      'InsufficientTrust',
      `header ${header.height} is signed by power ${power} of the ${all} that is trusted`,
    );
  }
  return accept(trusted, block, nowMs);
}

/** Power of a certificate's signers, measured by the trusted set. */
export const trustedPower = (trusted, { signatures }) =>
  powerOf(
    trusted.validators,
    signatures.map(({ validator }) => validator),
  );

/** 10.5/7 */
function checkTrust(trusted, nowMs, periodMs) {
  const ageMs = BigInt(nowMs) - trusted.timeMs;
  if (ageMs < BigInt(periodMs)) return;
  const error = new LocalError(
    `what is trusted is ${ageMs} ms old, trust lasts ${periodMs} ms: start from a recent header`,
  );
  error.name = 'TrustExpired';
  throw error;
}

/** The checks of 10.5/2 and 10.5/3, and what is trusted after them (10.5/8). */
function accept(trusted, { header, certificate, validators }, nowMs) {
  if (header.version !== BLOCK_VERSION || header.chainId !== trusted.chainId) {
    throw invalid(
      `header ${header.height} is of version ${header.version} and chain ${JSON.stringify(header.chainId)}`,
    );
  }
  if (header.timeMs <= trusted.timeMs || header.timeMs > BigInt(nowMs) + BigInt(limits.CLOCK_DRIFT_MS_MAX)) {
    throw invalid(`header ${header.height} has time ${header.timeMs}, trusted is ${trusted.timeMs}, now ${nowMs}`);
  }
  if (!header.validatorsHash.equals(validatorsHash(validators))) {
    throw invalid(`header ${header.height} comes with validators that are not its own`);
  }
  const id = blockId(header);
  try {
    verifyCertificate(trusted.chainId, validators, certificate, id, header.height);
  } catch (error) {
    throw error.isRemote ? invalid(`header ${header.height}: ${error.message}`) : error;
  }
  return {
    chainId: trusted.chainId,
    height: header.height,
    blockId: id,
    timeMs: header.timeMs,
    validators,
    nextValidatorsHash: header.nextValidatorsHash,
    header,
  };
}
