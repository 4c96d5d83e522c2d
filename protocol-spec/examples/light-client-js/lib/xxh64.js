// XXH64 with seed 0, which zstd frames use as their checksum (RFC 8878, section 3.1.1).

const P1 = 0x9e3779b185ebca87n;
const P2 = 0xc2b2ae3d27d4eb4fn;
const P3 = 0x165667b19e3779f9n;
const P4 = 0x85ebca77c2b2ae63n;
const P5 = 0x27d4eb2f165667c5n;

const wrap = (value) => BigInt.asUintN(64, value);
const rotate = (value, bits) => wrap(value << bits) | (value >> (64n - bits));
const round = (lane, input) => wrap(rotate(wrap(lane + input * P2), 31n) * P1);
const merge = (hash, lane) => wrap((hash ^ round(0n, lane)) * P1 + P4);

/** The 64-bit hash as a BigInt. */
export function xxh64(data) {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.length);
  let offset = 0;
  let hash = P5;
  if (bytes.length >= 32) {
    let [a, b, c, d] = [wrap(P1 + P2), P2, 0n, wrap(-P1)];
    for (; offset + 32 <= bytes.length; offset += 32) {
      a = round(a, bytes.readBigUInt64LE(offset));
      b = round(b, bytes.readBigUInt64LE(offset + 8));
      c = round(c, bytes.readBigUInt64LE(offset + 16));
      d = round(d, bytes.readBigUInt64LE(offset + 24));
    }
    hash = wrap(rotate(a, 1n) + rotate(b, 7n) + rotate(c, 12n) + rotate(d, 18n));
    hash = [a, b, c, d].reduce(merge, hash);
  }
  hash = wrap(hash + BigInt(bytes.length));
  for (; offset + 8 <= bytes.length; offset += 8) {
    hash = wrap(rotate(hash ^ round(0n, bytes.readBigUInt64LE(offset)), 27n) * P1 + P4);
  }
  if (offset + 4 <= bytes.length) {
    hash = wrap(rotate(hash ^ wrap(BigInt(bytes.readUInt32LE(offset)) * P1), 23n) * P2 + P3);
    offset += 4;
  }
  for (; offset < bytes.length; offset += 1) hash = wrap(rotate(hash ^ wrap(BigInt(bytes[offset]) * P5), 11n) * P1);
  hash = wrap((hash ^ (hash >> 33n)) * P2);
  hash = wrap((hash ^ (hash >> 29n)) * P3);
  return hash ^ (hash >> 32n);
}
