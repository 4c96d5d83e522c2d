// Chunks: how the decoded bytes of a shard are stored and sent (8.4).

import { RemoteError } from './errors.js';
import { decodeFactors } from './lora.js';
import { ITEM_BYTES, spansOf } from './manifest.js';
import { contentAddress } from './ranges.js';
import { decompress } from './zstd.js';

const VERSION = 1;
const FRAME_FLAG = 2 ** 31;

const corrupt = (message) => new RemoteError('CorruptChunk', message);

/**
 * Decoded bytes of a shard of a checked manifest. `base` is the decoded shard that a delta builds on, else null.
 * Throws CorruptChunk.
 */
export function decodeShard(manifest, entry, chunk, base = null) {
  // 8.4/6
  if (chunk.length !== entry.chunkBytes)
    throw corrupt(`chunk of ${chunk.length} bytes, the manifest says ${entry.chunkBytes}`);
  if (!contentAddress(chunk).equals(entry.chunk)) throw corrupt('chunk with another address than the manifest names');
  const decoded =
    entry.codec === 'raw'
      ? chunk
      : entry.codec === 'lora'
        ? decodeFactors(manifest.tensors, entry.slices, chunk, base, decodePlanes)
        : decodePlanes(chunk, spansOf(manifest.tensors, entry.slices));
  if (entry.codec === 'xor-planes') for (let i = 0; i < decoded.length; i += 1) decoded[i] ^= base[i]; // 8.4/2
  if (!contentAddress(decoded).equals(entry.decodedDigest))
    throw corrupt('chunk does not decode to what the manifest names'); // 8.4/8
  return decoded;
}

/** Planes of a chunk, joined into elements and laid out slice by slice (8.4/3). */
export function decodePlanes(chunk, spans) {
  const sizes = Object.keys(ITEM_BYTES)
    .map((dtype) => ({ dtype, bytes: spans.reduce((sum, span) => (span.dtype === dtype ? sum + span.bytes : sum), 0) }))
    .filter(({ bytes }) => bytes > 0);
  const lengths = sizes.flatMap(({ dtype, bytes }) => Array(ITEM_BYTES[dtype]).fill(bytes / ITEM_BYTES[dtype]));
  const planes = readPlanes(chunk, lengths);
  const joined = new Map(sizes.map(({ dtype }) => [dtype, join(planes.splice(0, ITEM_BYTES[dtype]))]));
  const taken = new Map();
  return Buffer.concat(
    spans.map(({ dtype, bytes }) => {
      const start = taken.get(dtype) ?? 0;
      taken.set(dtype, start + bytes);
      return bytes === 0 ? Buffer.alloc(0) : joined.get(dtype).subarray(start, start + bytes);
    }),
  );
}

/** The planes, each of the length that the manifest gives it (8.4/4, 8.4/7). */
function readPlanes(chunk, lengths) {
  const headerBytes = 1 + 4 * lengths.length;
  if (chunk.length < headerBytes) throw corrupt(`chunk of ${chunk.length} bytes, its header has ${headerBytes}`);
  if (chunk[0] !== VERSION) throw corrupt(`chunk of version ${chunk[0]}`);
  let offset = headerBytes;
  const planes = lengths.map((length, i) => {
    const word = chunk.readUInt32LE(1 + 4 * i);
    const isFrame = word >= FRAME_FLAG;
    const size = isFrame ? word - FRAME_FLAG : word;
    const piece = chunk.subarray(offset, offset + size);
    offset += size;
    if (piece.length !== size) throw corrupt('chunk ends within a plane');
    return readPlane(piece, length, isFrame);
  });
  if (offset !== chunk.length) throw corrupt(`chunk of ${chunk.length} bytes, its planes end at ${offset}`);
  return planes;
}

/** 8.4/5 */
function readPlane(piece, length, isFrame) {
  if (!isFrame) {
    if (piece.length !== length) throw corrupt(`stored plane of ${piece.length} bytes, expected ${length}`);
    return piece;
  }
  if (piece.length >= length)
    throw corrupt(`compressed plane of ${piece.length} bytes for ${length}: it has to be stored`);
  try {
    return decompress(piece, length, null);
  } catch (error) {
    throw error.isRemote ? corrupt(`plane: ${error.message}`) : error;
  }
}

/** Elements from their planes, the most significant byte first, the nine highest bits of each rotated right by one. */
function join(planes) {
  const [width, count] = [planes.length, planes[0].length];
  if (width === 1) return planes[0];
  const elements = Buffer.alloc(width * count);
  for (let i = 0; i < count; i += 1) {
    const [first, second] = [planes[0][i], planes[1][i]];
    elements[width * i + width - 1] = (second & 0x80) | (first >> 1);
    elements[width * i + width - 2] = ((first & 1) << 7) | (second & 0x7f);
    for (let k = 2; k < width; k += 1) elements[width * i + (width - 1 - k)] = planes[k][i];
  }
  return elements;
}
