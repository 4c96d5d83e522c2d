// Chunks of codec lora: a shard as its base, merged with factors of low rank (8.4/10 to 8.4/13).

import { RemoteError } from './errors.js';
import * as limits from './limits.js';

const corrupt = (message) => new RemoteError('CorruptChunk', message);
const bits = new DataView(new ArrayBuffer(4));

const toSingle = (word) => (bits.setUint32(0, word), bits.getFloat32(0));
const fromSingle = (value) => (bits.setFloat32(0, value), bits.getUint32(0));

/** Value of a half (IEEE 754 binary16) and back, to nearest with ties to even. */
function toHalf(word) {
  const [sign, exponent, fraction] = [word >> 15 ? -1 : 1, (word >> 10) & 31, word & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * (1024 + fraction) * 2 ** (exponent - 25) : sign * fraction * 2 ** -24;
}

function fromHalf(value) {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (size >= 65520) return sign | 0x7c00; // half way beyond the largest number
  const exponent = size < 2 ** -14 ? -14 : Math.floor(Math.log2(size));
  const unit = 2 ** (exponent - 10);
  const [whole, rest] = [Math.floor(size / unit), (size / unit) % 1];
  const rounded = whole + Number(rest > 0.5 || (rest === 0.5 && whole % 2 === 1));
  return sign | (rounded + (size < 2 ** -14 ? 0 : (exponent + 14) * 1024));
}

function fromSingleToBf16(value) {
  const word = fromSingle(value);
  const [whole, rest] = [word >>> 16, word & 0xffff];
  return whole + Number(rest > 0x8000 || (rest === 0x8000 && whole % 2 === 1));
}

const TYPES = {
  bf16: { bytes: 2, nan: 0x7fc0, read: (word) => toSingle(word * 65536), write: fromSingleToBf16 },
  f16: { bytes: 2, nan: 0x7e00, read: toHalf, write: fromHalf },
  f32: { bytes: 4, nan: 0x7fc00000, read: toSingle, write: fromSingle },
};

/** The numbers of the tensors of a shard, in the order in which its slices first name them. */
const tensorsOf = (slices) => [...new Set(slices.map(({ tensor }) => tensor))];

/**
 * Decoded bytes of a shard: `base` merged with the factors in `chunk`. `decodePlanes` decodes what a chunk of codec planes
 * holds. Throws CorruptChunk.
 */
export function decodeFactors(tensors, slices, chunk, base, decodePlanes) {
  const numbers = tensorsOf(slices);
  if (chunk.length < 2 * numbers.length) throw corrupt(`chunk of ${chunk.length} bytes for ${numbers.length} ranks`);
  const ranks = numbers.map((number, i) => checkedRank(tensors[number], chunk.readUInt16LE(2 * i)));
  const counts = numbers.map((number, i) => ranks[i] && ranks[i] * (tensors[number].shape[0] + tensors[number].shape[1]));
  const bytes = 2 * counts.reduce((sum, count) => sum + count, 0);
  if (bytes > limits.CHUNK_DECODED_BYTES_MAX) throw corrupt(`factors of ${bytes} bytes`);
  const words = decodePlanes(chunk.subarray(2 * numbers.length), [{ dtype: 'bf16', bytes }]);
  const values = Float32Array.from({ length: bytes / 2 }, (_, i) => TYPES.bf16.read(words.readUInt16LE(2 * i)));
  if (!values.every(Number.isFinite)) throw corrupt('factors that are no finite numbers');
  const factors = new Map();
  let taken = 0;
  numbers.forEach((number, i) => {
    if (ranks[i] === 0) return;
    const part = values.subarray(taken, (taken += counts[i]));
    const middle = ranks[i] * tensors[number].shape[0];
    factors.set(number, { rank: ranks[i], b: part.subarray(0, middle), a: part.subarray(middle) });
  });
  return merged(tensors, slices, base, factors);
}

function checkedRank({ name, shape, dtype }, rank) {
  if (rank > limits.LORA_RANK_MAX) throw corrupt(`factors of rank ${rank}`);
  if (rank > 0 && (shape.length !== 2 || !(dtype in TYPES))) throw corrupt(`factors of ${name}, which is no matrix`);
  return rank;
}

/** 8.4/12: a product or sum of two singles in doubles, rounded to a single, is that of singles. */
function merged(tensors, slices, base, factors) {
  const decoded = Buffer.from(base);
  let at = 0;
  for (const { tensor: number, rowStart, rowCount, columnStart, columnCount } of slices) {
    const { shape, dtype } = tensors[number];
    const width = shape.slice(1).reduce((product, size) => product * size, 1);
    const columns = columnCount || width;
    const { bytes, nan, read, write } = TYPES[dtype] ?? { bytes: 1 };
    const found = factors.get(number);
    if (found === undefined) {
      at += rowCount * columns * bytes;
      continue;
    }
    const { rank, b, a } = found;
    for (let row = rowStart; row < rowStart + rowCount; row += 1)
      for (let column = columnStart; column < columnStart + columns; column += 1) {
        let sum = Math.fround(b[row * rank] * a[column]);
        for (let k = 1; k < rank; k += 1)
          sum = Math.fround(sum + Math.fround(b[row * rank + k] * a[k * width + column]));
        const value = Math.fround(read(decoded.readUIntLE(at, bytes)) + sum);
        decoded.writeUIntLE(Number.isNaN(value) ? nan : write(value), at, bytes);
        at += bytes;
      }
  }
  return decoded;
}
