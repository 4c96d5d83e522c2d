// AEGIS-256 with a 32-byte tag: draft-irtf-cfrg-aegis-aead, section 4 ("The AEGIS-256 Algorithm"); clause 5.1/2.
//
// The AES round is done with the usual four tables. Table look-ups are not constant-time: fine for an example that
// holds no secret worth measuring, not for a node that shares its processor with strangers.

import { timingSafeEqual } from 'node:crypto';

export const TAG_BYTES = 32;
const BLOCK_BYTES = 16;

// Fibonacci constants C0 and C1 of the draft, as little-endian words.
const C0 = Int32Array.of(0x02010100, 0x0d080503, 0x59372215, 0x6279e990);
const C1 = Int32Array.of(0x55183ddb, 0xf12fc26d, 0x42311120, 0xdd28b573);

const [T0, T1, T2, T3] = aesTables();

/** Tables for SubBytes, ShiftRows and MixColumns at once (FIPS 197); a column is one little-endian word. */
function aesTables() {
  const double = (x) => ((x << 1) ^ (x & 0x80 ? 0x11b : 0)) & 0xff;
  const sbox = new Uint8Array(256);
  for (let p = 1, q = 1, first = true; first || p !== 1; first = false) {
    p = p ^ double(p); // p runs through the field by powers of 3, q through the inverses
    q ^= q << 1;
    q ^= q << 2;
    q = (q ^ (q << 4)) & 0xff;
    if (q & 0x80) q ^= 0x09;
    const rotate = (n) => ((q << n) | (q >> (8 - n))) & 0xff;
    sbox[p] = q ^ rotate(1) ^ rotate(2) ^ rotate(3) ^ rotate(4) ^ 0x63;
  }
  sbox[0] = 0x63;
  const tables = Array.from({ length: 4 }, () => new Int32Array(256));
  for (let x = 0; x < 256; x += 1) {
    const s = sbox[x];
    const word = double(s) | (s << 8) | (s << 16) | ((double(s) ^ s) << 24);
    for (let row = 0; row < 4; row += 1)
      tables[row][x] = row === 0 ? word : (word << (8 * row)) | (word >>> (32 - 8 * row));
  }
  return tables;
}

/** The state: six AES blocks S0 to S5, four words each. */
class State {
  constructor(key, nonce) {
    const k = words(key);
    const n = words(nonce);
    const kn = k.map((word, i) => word ^ n[i]);
    const s = new Int32Array(24);
    s.set(kn);
    s.set(C1, 8);
    s.set(C0, 12);
    for (let i = 0; i < 4; i += 1) {
      s[16 + i] = k[i] ^ C0[i];
      s[20 + i] = k[4 + i] ^ C1[i];
    }
    this.s = s;
    for (let round = 0; round < 4; round += 1) {
      for (const m of [k, kn]) {
        this.update(m[0], m[1], m[2], m[3]);
        this.update(m[4], m[5], m[6], m[7]);
      }
    }
  }

  /** Update(M): every block becomes the AES round of the block before it, keyed with itself; S0 takes the message in. */
  update(m0, m1, m2, m3) {
    const s = this.s;
    const a = s[20],
      b = s[21],
      c = s[22],
      d = s[23];
    for (let i = 20; i > 0; i -= 4) {
      const p = s[i - 4],
        q = s[i - 3],
        r = s[i - 2],
        t = s[i - 1];
      s[i] ^= T0[p & 255] ^ T1[(q >>> 8) & 255] ^ T2[(r >>> 16) & 255] ^ T3[t >>> 24];
      s[i + 1] ^= T0[q & 255] ^ T1[(r >>> 8) & 255] ^ T2[(t >>> 16) & 255] ^ T3[p >>> 24];
      s[i + 2] ^= T0[r & 255] ^ T1[(t >>> 8) & 255] ^ T2[(p >>> 16) & 255] ^ T3[q >>> 24];
      s[i + 3] ^= T0[t & 255] ^ T1[(p >>> 8) & 255] ^ T2[(q >>> 16) & 255] ^ T3[r >>> 24];
    }
    s[0] ^= m0 ^ T0[a & 255] ^ T1[(b >>> 8) & 255] ^ T2[(c >>> 16) & 255] ^ T3[d >>> 24];
    s[1] ^= m1 ^ T0[b & 255] ^ T1[(c >>> 8) & 255] ^ T2[(d >>> 16) & 255] ^ T3[a >>> 24];
    s[2] ^= m2 ^ T0[c & 255] ^ T1[(d >>> 8) & 255] ^ T2[(a >>> 16) & 255] ^ T3[b >>> 24];
    s[3] ^= m3 ^ T0[d & 255] ^ T1[(a >>> 8) & 255] ^ T2[(b >>> 16) & 255] ^ T3[c >>> 24];
  }

  /** Word i of the key stream: S1 ^ S4 ^ S5 ^ (S2 & S3). */
  stream(i) {
    const s = this.s;
    return s[4 + i] ^ s[16 + i] ^ s[20 + i] ^ (s[8 + i] & s[12 + i]);
  }

  absorb(data) {
    const padded = words(data);
    for (let i = 0; i < padded.length; i += 4) this.update(padded[i], padded[i + 1], padded[i + 2], padded[i + 3]);
  }

  /** Finalize: seven updates with the lengths in bits, and both halves of the state as a 256-bit tag. */
  tag(associatedBytes, messageBytes) {
    const s = this.s;
    const lengths = Buffer.alloc(BLOCK_BYTES);
    lengths.writeBigUInt64LE(BigInt(associatedBytes) * 8n, 0);
    lengths.writeBigUInt64LE(BigInt(messageBytes) * 8n, 8);
    const t = words(lengths).map((word, i) => word ^ s[12 + i]);
    for (let round = 0; round < 7; round += 1) this.update(t[0], t[1], t[2], t[3]);
    const tag = Buffer.alloc(TAG_BYTES);
    for (let i = 0; i < 4; i += 1) {
      tag.writeInt32LE(s[i] ^ s[4 + i] ^ s[8 + i], 4 * i);
      tag.writeInt32LE(s[12 + i] ^ s[16 + i] ^ s[20 + i], BLOCK_BYTES + 4 * i);
    }
    return tag;
  }
}

/** Bytes as little-endian words, padded with zeros to whole blocks. */
function words(bytes) {
  const length = Math.ceil(bytes.length / BLOCK_BYTES) * 4;
  const padded = Buffer.alloc(length * 4);
  padded.set(bytes);
  return Int32Array.from({ length }, (_, i) => padded.readInt32LE(4 * i));
}

/** Run the message through the cipher, whole blocks first; `isSealing` says which side is the plain text. */
function crypt(state, input, output, isSealing) {
  const whole = input.length - (input.length % BLOCK_BYTES);
  for (let offset = 0; offset < whole; offset += BLOCK_BYTES) {
    const plain = [0, 0, 0, 0];
    for (let i = 0; i < 4; i += 1) {
      const word = input.readInt32LE(offset + 4 * i);
      const other = word ^ state.stream(i);
      output.writeInt32LE(other, offset + 4 * i);
      plain[i] = isSealing ? word : other;
    }
    state.update(plain[0], plain[1], plain[2], plain[3]);
  }
  if (whole < input.length) {
    const stream = Buffer.alloc(BLOCK_BYTES);
    for (let i = 0; i < 4; i += 1) stream.writeInt32LE(state.stream(i), 4 * i);
    for (let i = whole; i < input.length; i += 1) output[i] = input[i] ^ stream[i - whole];
    state.absorb((isSealing ? input : output).subarray(whole));
  }
}

function begin(key, nonce, associated) {
  if (key.length !== 32 || nonce.length !== 32) throw new RangeError('AEGIS-256 takes a key and a nonce of 32 bytes');
  const state = new State(key, nonce);
  state.absorb(associated);
  return state;
}

/** Encrypt `plain`; gives the cipher text with the tag at its end. */
export function seal(key, nonce, associated, plain) {
  const input = Buffer.from(plain.buffer, plain.byteOffset, plain.length);
  const state = begin(key, nonce, associated);
  const box = Buffer.alloc(input.length + TAG_BYTES);
  crypt(state, input, box, true);
  box.set(state.tag(associated.length, input.length), input.length);
  return box;
}

/** Decrypt and verify a box; null if it doesn't open. */
export function open(key, nonce, associated, box) {
  if (box.length < TAG_BYTES) return null;
  const input = Buffer.from(box.buffer, box.byteOffset, box.length - TAG_BYTES);
  const state = begin(key, nonce, associated);
  const plain = Buffer.alloc(input.length);
  crypt(state, input, plain, false);
  return timingSafeEqual(state.tag(associated.length, plain.length), box.subarray(input.length)) ? plain : null;
}
