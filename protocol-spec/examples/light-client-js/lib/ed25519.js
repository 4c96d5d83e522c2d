// Ed25519 and X25519 by node:crypto, with the raw keys of the protocol (chapter 3).

import {
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  sign as cryptoSign,
  verify as cryptoVerify,
} from 'node:crypto';
import { taggedHash } from './blake3.js';

// RFC 8410: the DER that stands before the 32 raw bytes of a key.
const PRIVATE_DER = { ed25519: '302e020100300506032b657004220420', x25519: '302e020100300506032b656e04220420' };
const PUBLIC_DER = { ed25519: '302a300506032b6570032100', x25519: '302a300506032b656e032100' };

const privateKey = (curve, raw) =>
  createPrivateKey({ key: Buffer.concat([Buffer.from(PRIVATE_DER[curve], 'hex'), raw]), format: 'der', type: 'pkcs8' });

const publicKey = (curve, raw) =>
  createPublicKey({ key: Buffer.concat([Buffer.from(PUBLIC_DER[curve], 'hex'), raw]), format: 'der', type: 'spki' });

const publicOf = (curve, raw) =>
  createPublicKey(privateKey(curve, raw))
    .export({ format: 'der', type: 'spki' })
    .subarray(PUBLIC_DER[curve].length / 2);

/** An Ed25519 secret key from its 32-byte seed: {key, public} (3.1/1). */
export function secretKey(seed) {
  return { key: privateKey('ed25519', seed), public: publicOf('ed25519', seed) };
}

/** What a signature for the purpose `tag` is over (3.2/1). */
export const messageOf = (tag, payload) => taggedHash(`signature ${tag}`, payload);

export function sign(secret, tag, payload) {
  return cryptoSign(null, messageOf(tag, payload), secret.key);
}

// L, the order of the base point, and p, the prime of the field (3.2).
const L = 2n ** 252n + 27742317777372353535851937790883648493n;
const P = 2n ** 255n - 19n;

/** Values of y modulo p of the points of small order (3.2/5). */
const SMALL_ORDER = new Set([
  0n,
  1n,
  P - 1n,
  littleEndian(Buffer.from('26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05', 'hex')),
  littleEndian(Buffer.from('c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a', 'hex')),
]);

function littleEndian(bytes) {
  return BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`);
}

const yOf = (bytes) => littleEndian(bytes) & (2n ** 255n - 1n);

/**
 * Whether a signature is valid by the rule of 3.2.
 *
 * OpenSSL refuses what 3.2/7 and 3.2/8 refuse: it decodes A, computes [S]B - [h]A and compares the encoding with R. It
 * accepts keys that aren't canonical and points of small order, so those are refused here first.
 */
export function verify(publicBytes, tag, payload, signature) {
  return verifyMessage(publicBytes, messageOf(tag, payload), signature);
}

/** The rule over a message as it is, without a purpose. */
export function verifyMessage(publicBytes, message, signature) {
  if (publicBytes.length !== 32 || signature.length !== 64) return false; // 3.2/3
  if (littleEndian(signature.subarray(32)) >= L) return false; // 3.2/4
  const y = yOf(publicBytes);
  if (SMALL_ORDER.has(y % P) || SMALL_ORDER.has(yOf(signature.subarray(0, 32)) % P)) return false; // 3.2/5
  if (y >= P) return false; // 3.2/6
  return cryptoVerify(null, message, publicKey('ed25519', publicBytes), signature);
}

/** The first 20 bytes of the tagged hash of a public key (3.1/2). */
export const addressOf = (publicBytes) => taggedHash('address', publicBytes).subarray(0, 20);

const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567';

/** Text of an address (3.1/3). */
export function formatAddress(address) {
  const checked = Buffer.concat([address, taggedHash('address checksum', address).subarray(0, 4)]);
  // 192 bits are 38 letters of five bits and one of two; three zero bits fill the last letter.
  let bits = BigInt(`0x${checked.toString('hex')}`) << 3n;
  let letters = '';
  for (let i = 0; i < 39; i += 1, bits >>= 5n) letters = BASE32[Number(bits & 31n)] + letters;
  return `ds1${letters}`;
}

/** The address in a text; null if the text isn't exactly that of an address (3.1/4). */
export function parseAddress(text) {
  const trimmed = text.trim();
  if (!/^ds1[a-z2-7]{39}$/.test(trimmed)) return null;
  const bits = [...trimmed.slice(3)].reduce((value, letter) => (value << 5n) | BigInt(BASE32.indexOf(letter)), 0n);
  const checked = Buffer.from((bits >> 3n).toString(16).padStart(48, '0'), 'hex');
  const address = checked.subarray(0, 20);
  return formatAddress(address) === trimmed ? address : null;
}

/** An X25519 key pair from its 32-byte secret: {key, public} (1.7, 4.2/1). */
export function ephemeralKey(secret) {
  return { key: privateKey('x25519', secret), public: publicOf('x25519', secret) };
}

/** X25519 of our secret and their public key; null for a key of low order (1.7/2). */
export function agree(ephemeral, theirPublic) {
  let shared;
  try {
    shared = diffieHellman({ privateKey: ephemeral.key, publicKey: publicKey('x25519', theirPublic) });
  } catch (error) {
    if (error.code?.startsWith('ERR_OSSL') || error.code === 'ERR_CRYPTO_OPERATION_FAILED') return null;
    throw error;
  }
  return shared.equals(Buffer.alloc(32)) ? null : shared;
}
