// Packets: what is sealed (5.1), and the change of keys (5.6). One Sealer and one Opener for each link.

import { open, seal, TAG_BYTES } from './aegis256.js';
import { expand } from './blake3.js';
import { concat, u16, u32, u64 } from './bytes.js';
import { malformed, oversized, RemoteError } from './errors.js';
import { HEADER_BYTES, parseHeader } from './frames.js';
import * as limits from './limits.js';

/** 5.1/5 */
export const Type = Object.freeze({ FRAME: 1, DATA: 2, CREDIT: 3, PING: 4, PONG: 5, REKEY: 6, GOODBYE: 7, STREAMS: 8 });
const SIZE_BYTES = 4;
const SIGNATURE_BYTES = 64;
const DIGEST_BYTES = 32;
const REKEY_BOX_BYTES = 1 + TAG_BYTES;

/** A direction's key with its packet number and what was sealed under the key so far (5.1/2, 5.1/3, 5.6). */
class Direction {
  constructor(key) {
    this.key = key;
    this.number = 0n;
    this.renew(key);
  }

  renew(key) {
    this.key = key;
    this.packets = 0;
    this.bytes = 0;
  }

  rekey() {
    this.renew(expand(this.key, 'link rekey')); // 5.6/1
  }

  count(boxBytes) {
    this.number += 1n;
    this.packets += 1;
    this.bytes += boxBytes;
  }

  /** Whether this many more packets and bytes go beyond what one key may seal (5.6/2). */
  isExhausted(packets, boxBytes) {
    return this.packets + packets > limits.REKEY_PACKETS || this.bytes + boxBytes > limits.REKEY_BYTES;
  }

  nonce() {
    return concat(u64(this.number), Buffer.alloc(24));
  }
}

export class Sealer extends Direction {
  /** The bytes of a packet with this plain text, after a REKEY packet where one is due. */
  seal(plain) {
    const boxBytes = plain.length + TAG_BYTES;
    const rekey = this.isExhausted(2, boxBytes + REKEY_BOX_BYTES) ? this.sealRekey() : Buffer.alloc(0);
    return concat(rekey, this.sealOne(plain));
  }

  sealRekey() {
    const packet = this.sealOne(Buffer.of(Type.REKEY));
    this.rekey();
    return packet;
  }

  sealOne(plain) {
    const size = u32(plain.length);
    const box = seal(this.key, this.nonce(), size, plain);
    this.count(box.length);
    return concat(size, box);
  }
}

export class Opener extends Direction {
  received = Buffer.alloc(0);

  push(data) {
    this.received = concat(this.received, data);
  }

  /** The next complete packet's plain text, or null if there is none yet. */
  next() {
    if (this.received.length < SIZE_BYTES) return null;
    const size = this.received.readUInt32LE(0);
    if (size > limits.PACKET_BYTES_MAX) {
      throw oversized(`packet of ${size} bytes, at most ${limits.PACKET_BYTES_MAX} are allowed`); // 5.1/1
    }
    if (size === 0) throw malformed('packet of 0 bytes'); // 5.1/1
    const end = SIZE_BYTES + size + TAG_BYTES;
    if (this.isExhausted(1, size + TAG_BYTES))
      throw new RemoteError('KeyExhausted', 'a packet beyond what one key may seal');
    if (this.received.length < end) return null;
    const plain = open(
      this.key,
      this.nonce(),
      this.received.subarray(0, SIZE_BYTES),
      this.received.subarray(SIZE_BYTES, end),
    );
    if (plain === null) throw new RemoteError('TamperedFrame', `packet ${this.number} does not open`); // 5.1/4
    this.received = this.received.subarray(end);
    this.count(size + TAG_BYTES);
    if (plain[0] === Type.REKEY && plain.length === 1) this.rekey(); // 5.6/3
    return plain;
  }
}

/** Fields of a packet's plain text (5.1/5): {type, ...}. */
export function parsePacket(plain) {
  const type = plain[0];
  const fields = plain.subarray(1);
  const exactly = (count) => {
    if (fields.length !== count)
      throw malformed(`packet of type ${type} with ${fields.length} bytes, expected ${count}`);
  };
  switch (type) {
    case Type.FRAME:
      return { type, ...parseFrame(fields) };
    case Type.DATA:
      if (fields.length < 5 || fields.length > 4 + limits.DATA_BYTES_MAX) {
        throw malformed(`DATA packet with ${fields.length} bytes, expected 5 to ${4 + limits.DATA_BYTES_MAX}`);
      }
      return { type, stream: fields.readUInt32LE(0), data: fields.subarray(4) };
    case Type.CREDIT:
      exactly(12);
      return { type, stream: fields.readUInt32LE(0), limit: fields.readBigUInt64LE(4) };
    case Type.PING:
    case Type.PONG:
      exactly(8);
      return { type, nonce: fields.readBigUInt64LE(0) };
    case Type.REKEY:
      exactly(0);
      return { type };
    case Type.GOODBYE:
      return { type, ...parseGoodbye(fields) };
    case Type.STREAMS:
      exactly(4);
      return { type, limit: fields.readUInt32LE(0) };
    default:
      throw malformed(`packet of unknown type ${type}`);
  }
}

function parseFrame(fields) {
  if (fields.length < HEADER_BYTES + SIGNATURE_BYTES) throw malformed(`FRAME packet with ${fields.length} bytes`);
  const headerBytes = fields.subarray(0, HEADER_BYTES);
  const header = parseHeader(headerBytes);
  const signature = fields.subarray(HEADER_BYTES, HEADER_BYTES + SIGNATURE_BYTES);
  let offset = HEADER_BYTES + SIGNATURE_BYTES;
  let attachmentDigest = null;
  if (header.attachmentBytes > 0) {
    attachmentDigest = fields.subarray(offset, offset + DIGEST_BYTES);
    offset += DIGEST_BYTES;
  }
  const part = fields.subarray(offset);
  const expected = Math.min(header.sentBytes, limits.DATA_BYTES_MAX); // 5.2/5
  if (fields.length !== offset + expected) {
    throw malformed(`FRAME packet with ${fields.length} bytes, expected ${offset + expected}`);
  }
  return { header, headerBytes, signature, attachmentDigest, part };
}

function parseGoodbye(fields) {
  if (fields.length < 2 || fields.length > 2 + limits.GOODBYE_BYTES_MAX) {
    throw malformed(`GOODBYE packet with ${fields.length} bytes`);
  }
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(fields.subarray(2));
    return { reason: fields.readUInt16LE(0), text };
  } catch {
    throw malformed('GOODBYE text is not UTF-8'); // 5.8/3
  }
}

/** Plain texts of the packets that this client sends. */
export const packet = Object.freeze({
  frame: (headerBytes, signature, body) => concat(Buffer.of(Type.FRAME), headerBytes, signature, body),
  credit: (stream, limit) => concat(Buffer.of(Type.CREDIT), u32(stream), u64(limit)),
  ping: (nonce) => concat(Buffer.of(Type.PING), u64(nonce)),
  pong: (nonce) => concat(Buffer.of(Type.PONG), u64(nonce)),
  goodbye: (reason, text) => concat(Buffer.of(Type.GOODBYE), u16(reason), Buffer.from(text, 'utf8')),
  streams: (limit) => concat(Buffer.of(Type.STREAMS), u32(limit)),
});
