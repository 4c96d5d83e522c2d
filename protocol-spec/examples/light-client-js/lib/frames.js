// Frames: what is signed (5.2).

import { plainHash } from './blake3.js';
import { concat, u16, u32, u64 } from './bytes.js';
import { malformed, oversized, RemoteError } from './errors.js';
import * as limits from './limits.js';
import { sign, verify } from './ed25519.js';
import { contentAddress } from './ranges.js';
import { decompress } from './zstd.js';

export const HEADER_BYTES = 30;
const MAGIC = Buffer.from('DS', 'ascii');
const VERSION = 2;
const COMPRESSED = 1;
const NO_DIGEST = Buffer.alloc(32);

/** Read and check a header (5.2/1, 5.2/3, 5.2/4). */
export function parseHeader(bytes) {
  if (!bytes.subarray(0, 2).equals(MAGIC)) throw malformed(`frame with magic ${bytes.subarray(0, 2).toString('hex')}`);
  if (bytes[2] !== VERSION) throw malformed(`frame of version ${bytes[2]}, expected ${VERSION}`);
  if (bytes[3] & ~COMPRESSED) throw malformed(`frame with unknown flags ${bytes[3]}`);
  const header = {
    isCompressed: Boolean(bytes[3] & COMPRESSED),
    kind: bytes.readUInt16LE(4),
    stream: bytes.readUInt32LE(6),
    sentBytes: bytes.readUInt32LE(10),
    bodyBytes: bytes.readUInt32LE(14),
    attachmentBytes: bytes.readUInt32LE(18),
    sequence: bytes.readBigUInt64LE(22),
  };
  for (const [name, most] of [
    ['sentBytes', limits.BODY_BYTES_MAX],
    ['bodyBytes', limits.BODY_BYTES_MAX],
    ['attachmentBytes', limits.ATTACHMENT_BYTES_MAX],
  ]) {
    if (header[name] > most) throw oversized(`frame with ${name} ${header[name]}, at most ${most} are allowed`);
  }
  if (!header.isCompressed && header.sentBytes !== header.bodyBytes) {
    throw malformed(`frame sends ${header.sentBytes} bytes of a body of ${header.bodyBytes} that isn't compressed`);
  }
  return header;
}

/** Header bytes of an uncompressed frame without attachment: this client sends no other. */
export function packHeader({ kind, stream, bodyBytes, sequence }) {
  return concat(
    MAGIC,
    Buffer.of(VERSION, 0),
    u16(kind),
    u32(stream),
    u32(bodyBytes),
    u32(bodyBytes),
    u32(0),
    u64(sequence),
  );
}

/** What a frame's signature is over (5.2/9). */
export function signedBytes(sessionId, headerBytes, body, attachmentDigest) {
  return concat(sessionId, headerBytes, plainHash(body), attachmentDigest ?? NO_DIGEST);
}

export function signFrame(secretKey, sessionId, headerBytes, body) {
  return sign(secretKey, 'frame', signedBytes(sessionId, headerBytes, body, null));
}

/** A frame that arrives in parts: the body as sent, then the attachment (5.2/5). */
export class IncomingFrame {
  constructor({ header, headerBytes, signature, attachmentDigest }) {
    this.header = header;
    this.headerBytes = Buffer.from(headerBytes);
    this.signature = Buffer.from(signature);
    this.attachmentDigest = attachmentDigest && Buffer.from(attachmentDigest);
    this.totalBytes = header.sentBytes + header.attachmentBytes;
    this.arrivedBytes = 0;
    this.body = null;
    this.parts = [];
    this.attachment = Buffer.alloc(0);
  }

  get isComplete() {
    return this.body !== null && this.arrivedBytes === this.totalBytes;
  }

  /** Take the next bytes; verifies the signature once the body is complete, the attachment's address at the end. */
  take(data, sessionId, peerKey) {
    if (this.arrivedBytes + data.length > this.totalBytes) throw malformed('DATA beyond the end of its frame'); // 5.2/6
    this.parts.push(Buffer.from(data));
    this.arrivedBytes += data.length;
    if (this.body === null && this.arrivedBytes >= this.header.sentBytes) this.finishBody(sessionId, peerKey);
    if (this.isComplete && this.attachmentDigest) this.checkAttachment();
  }

  finishBody(sessionId, peerKey) {
    const arrived = concat(...this.parts);
    const sent = arrived.subarray(0, this.header.sentBytes);
    const { isCompressed, bodyBytes } = this.header;
    const body = isCompressed ? decompress(sent, bodyBytes, limits.BODY_BYTES_MAX) : sent; // 5.2/7
    const signed = signedBytes(sessionId, this.headerBytes, body, this.attachmentDigest);
    if (!verify(peerKey, 'frame', signed, this.signature)) {
      throw new RemoteError('BadSignature', `frame ${this.header.sequence} is not signed by the peer`); // 5.2/9
    }
    this.body = body;
    this.parts = [arrived.subarray(this.header.sentBytes)];
  }

  checkAttachment() {
    this.attachment = concat(...this.parts);
    if (!contentAddress(this.attachment).equals(this.attachmentDigest)) {
      throw new RemoteError('CorruptAttachment', `attachment of frame ${this.header.sequence} has another address`); // 5.2/10
    }
  }
}
