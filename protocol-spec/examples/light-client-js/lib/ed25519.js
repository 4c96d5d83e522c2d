// Ed25519 and X25519 by node:crypto, with the raw keys of the protocol (chapter 3).

import { createPrivateKey, createPublicKey, diffieHellman, sign as cryptoSign, verify as cryptoVerify } from 'node:crypto';

// RFC 8410: the DER that stands before the 32 raw bytes of a key.
const PRIVATE_DER = { ed25519: '302e020100300506032b657004220420', x25519: '302e020100300506032b656e04220420' };
const PUBLIC_DER = { ed25519: '302a300506032b6570032100', x25519: '302a300506032b656e032100' };

const privateKey = (curve, raw) =>
  createPrivateKey({ key: Buffer.concat([Buffer.from(PRIVATE_DER[curve], 'hex'), raw]), format: 'der', type: 'pkcs8' });

const publicKey = (curve, raw) =>
  createPublicKey({ key: Buffer.concat([Buffer.from(PUBLIC_DER[curve], 'hex'), raw]), format: 'der', type: 'spki' });

const publicOf = (curve, raw) =>
  createPublicKey(privateKey(curve, raw)).export({ format: 'der', type: 'spki' }).subarray(PUBLIC_DER[curve].length / 2);
