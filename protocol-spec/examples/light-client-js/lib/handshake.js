// The handshake, as dialler, without I/O (chapter 4).

import { open, seal } from './aegis256.js';
import { expand, taggedHash } from './blake3.js';
import { concat, u16 } from './bytes.js';
import { agree, ephemeralKey, sign, verify } from './ed25519.js';
import { malformed, oversized, RemoteError, unexpected } from './errors.js';
import * as limits from './limits.js';
import { bytes, decode, encode, enumeration, list, record, text } from './msgpack.js';

export const VERSION = 2; // 4.1/4
export const Kind = Object.freeze({ HELLO: 1, REPLY: 2, FINISH: 3, REFUSAL: 255 }); // 4.1/3
const NONCE = Buffer.alloc(32);
const MESSAGE_MAX = limits.HANDSHAKE_MESSAGE_BYTES_MAX;

const REASONS = [
  'unsupported-version',
  'chain-mismatch',
  'genesis-mismatch',
  'self-connection',
  'unexpected-key',
  'banned',
  'too-many-peers',
  'duplicate-link',
]; // 4.6/6

// Records of 4.1.
export const Hello = record('Hello', {
  chainId: text(64),
  genesisHash: bytes(32),
  ephemeral: bytes(32),
  nonce: bytes(32),
  features: list(text(16), 8),
});
export const Claims = record('Claims', { publicKey: bytes(32), roles: list(text(16), 8), listen: text(280) });
export const SignedClaims = record('SignedClaims', { claims: Claims, signature: bytes(64) });
export const Reply = record('Reply', { hello: Hello, box: bytes(0, MESSAGE_MAX) });
export const Finish = record('Finish', { box: bytes(0, MESSAGE_MAX) });
export const Refusal = record('Refusal', { reason: enumeration(...REASONS), ours: text(80), theirs: text(80) });

/** A message's bytes (4.1/1). */
export function message(kind, type, value) {
  const encoded = encode(value, type);
  return concat(u16(2 + encoded.length), Buffer.of(kind, VERSION), encoded);
}

// The key schedule (4.4).

export const helloTranscript = (hello, listenerHello) => taggedHash('handshake hellos', hello, listenerHello);
export const replyTranscript = (t0, listenerBox) => taggedHash('handshake reply', t0, listenerBox);
export const endTranscript = (t1, diallerBox) => taggedHash('handshake end', t1, diallerBox);

/** Keys of the boxes: {listener, dialler} (4.4/2). */
export function boxKeys(shared, t0) {
  const keys = expand(concat(shared, t0), 'handshake boxes', 64);
  return { listener: keys.subarray(0, 32), dialler: keys.subarray(32) };
}

/** {toListener, toDialler, sessionId} (4.4/3, 4.4/4). */
export function linkKeys(shared, t2) {
  const keys = expand(concat(shared, t2), 'link keys', 96);
  return { toListener: keys.subarray(0, 32), toDialler: keys.subarray(32, 64), sessionId: keys.subarray(64) };
}

/** A side's claims, signed and sealed (4.3/2, 4.3/3). `side` is 'listener' or 'dialler'. */
export function sealClaims(side, secret, claims, key, transcript) {
  const signature = sign(secret, `handshake ${side}`, concat(transcript, encode(claims, Claims)));
  return seal(key, NONCE, transcript, encode({ claims, signature }, SignedClaims));
}

/** Open a side's box and verify its signature; gives its claims (4.3/4). */
export function openClaims(side, box, key, transcript) {
  const plain = open(key, NONCE, transcript, box);
  if (plain === null) throw new RemoteError('HandshakeFailed', `the box of the ${side} does not open`);
  const { claims, signature } = decode(plain, SignedClaims, MESSAGE_MAX);
  if (!verify(claims.publicKey, `handshake ${side}`, concat(transcript, encode(claims, Claims)), signature)) {
    throw new RemoteError('BadSignature', `the ${side} does not have the key that it names`);
  }
  return claims;
}

/** Why we won't go on; `refusal` is what to send before closing (4.6/1), or null where the peer refused. */
class HandshakeRefused extends RemoteError {
  constructor(text, refusal) {
    super('HandshakeRefused', text);
    this.refusal = refusal;
  }
}

/** A peer's text, without what could forge a line or steer a terminal. */
export const printable = (text) => text.replace(/[\p{C}\p{Z}]/gu, (letter) => (letter === ' ' ? letter : '?'));

function refuse(reason, ours = '', theirs = '') {
  const cut = (value) => [...printable(value)].slice(0, 80).join(''); // 4.6/4
  const refusal = { reason, ours: cut(ours), theirs: cut(theirs) };
  const facts = ours || theirs ? `: ours is ${ours}, theirs ${refusal.theirs}` : '';
  return new HandshakeRefused(`we refuse the peer: ${reason}${facts}`, message(Kind.REFUSAL, Refusal, refusal));
}

/** The dialler's side. `ephemeralSecret` and `nonce` are 32 random bytes each, new for every connection (4.2). */
export class Dialler {
  constructor({
    chainId,
    genesisHash,
    secret,
    ephemeralSecret,
    nonce,
    roles = [],
    listen = '',
    features = [],
    expectedKey = null,
  }) {
    this.network = { chainId, genesisHash };
    this.secret = secret;
    this.claims = { publicKey: secret.public, roles, listen };
    this.expectedKey = expectedKey;
    this.ephemeral = ephemeralKey(ephemeralSecret);
    this.hello = message(Kind.HELLO, Hello, {
      chainId,
      genesisHash,
      ephemeral: this.ephemeral.public,
      nonce,
      features,
    });
    this.received = Buffer.alloc(0);
  }

  /**
   * Take bytes of the listener. Gives null until REPLY is complete, then {finish, keys, peer, rest}: what to send, the
   * keys of the link, the listener's claims, and bytes that belong to the link already (4.5/5).
   */
  receive(data) {
    this.received = concat(this.received, data);
    if (this.received.length < 2) return null;
    const length = this.received.readUInt16LE(0);
    if (length > MESSAGE_MAX)
      throw oversized(`handshake message of ${length} bytes, at most ${MESSAGE_MAX} are allowed`);
    if (length < 2) throw malformed(`handshake message of ${length} bytes`); // 4.1/2
    if (this.received.length < 2 + length) return null;
    const [kind, version] = [this.received[2], this.received[3]];
    const body = this.received.subarray(4, 2 + length);
    if (kind === Kind.REFUSAL) throw this.refused(body);
    if (kind !== Kind.REPLY) throw unexpected(`handshake message of kind ${kind}, expected REPLY`); // 4.1/3, 4.5/1
    if (version !== VERSION) throw refuse('unsupported-version', `version ${VERSION}`, `version ${version}`); // 4.1/4
    return { ...this.takeReply(decode(body, Reply, MESSAGE_MAX)), rest: this.received.subarray(2 + length) };
  }

  refused(body) {
    const { reason, ours, theirs } = decode(body, Refusal, MESSAGE_MAX); // 4.6/3
    const facts = ours || theirs ? `: it has ${printable(ours)}, we have ${printable(theirs)}` : ''; // 4.6/5
    return new HandshakeRefused(`the peer refuses us: ${reason}${facts}`, null);
  }

  takeReply({ hello, box }) {
    const { chainId, genesisHash } = this.network;
    if (hello.chainId !== chainId) throw refuse('chain-mismatch', chainId, hello.chainId); // 4.2/3
    if (!hello.genesisHash.equals(genesisHash)) {
      throw refuse('genesis-mismatch', genesisHash.toString('hex'), hello.genesisHash.toString('hex'));
    }
    const shared = agree(this.ephemeral, hello.ephemeral);
    if (shared === null) throw new RemoteError('HandshakeFailed', 'the ephemeral key of the listener is of low order'); // 4.2/6
    const t0 = helloTranscript(this.hello, encode(hello, Hello));
    const keys = boxKeys(shared, t0);
    const peer = openClaims('listener', box, keys.listener, t0);
    if (peer.publicKey.equals(this.secret.public)) throw refuse('self-connection'); // 4.3/6
    if (this.expectedKey && !peer.publicKey.equals(this.expectedKey)) throw refuse('unexpected-key'); // 4.3/7
    const t1 = replyTranscript(t0, box);
    const ours = sealClaims('dialler', this.secret, this.claims, keys.dialler, t1);
    return {
      finish: message(Kind.FINISH, Finish, { box: ours }),
      keys: linkKeys(shared, endTranscript(t1, ours)),
      peer,
    };
  }
}
