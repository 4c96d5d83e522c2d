// One zstd frame, checked before anything is allocated for it: clauses 5.2/7 and 8.4, RFC 8878 section 3.1.1.
//
// The package `fzstd` decodes blocks, but trusts what a frame says about itself, reads several frames and skips the
// checksum. So the frame is walked here first, and its output is counted.

import { Decompress } from 'fzstd';
import { malformed } from './errors.js';
import { xxh64 } from './xxh64.js';

const MAGIC = 0xfd2fb528;
const BLOCK_BYTES_MAX = 128 * 1024;
const RLE = 1;
const RESERVED = 3;

/** Read the frame's header and walk its blocks; gives {contentBytes, windowBytes, hasChecksum}. */
export function inspect(data) {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.length);
  const need = (end) => {
    if (end > bytes.length) throw malformed(`zstd frame is cut off at byte ${bytes.length}`);
  };
  need(5);
  if (bytes.readUInt32LE(0) !== MAGIC) throw malformed('not a zstd frame');
  const descriptor = bytes[4];
  const isSingleSegment = Boolean(descriptor & 0x20);
  const hasChecksum = Boolean(descriptor & 0x04);
  if (descriptor & 0x08) throw malformed('zstd frame with its reserved bit set');
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3];
  let offset = 5;
  let windowBytes = null;
  if (!isSingleSegment) {
    need(offset + 1);
    const base = 2n ** BigInt(10 + (bytes[offset] >> 3));
    windowBytes = base + (base / 8n) * BigInt(bytes[offset] & 7);
    offset += 1;
  }
  need(offset + dictionaryBytes);
  if (dictionaryBytes > 0 && bytes.readUIntLE(offset, dictionaryBytes) !== 0)
    throw malformed('zstd frame names a dictionary');
  offset += dictionaryBytes;
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6];
  need(offset + sizeBytes);
  const contentBytes = contentSize(bytes, offset, sizeBytes);
  offset += sizeBytes;
  windowBytes ??= contentBytes;
  walkBlocks(bytes, offset, hasChecksum, windowBytes < BigInt(BLOCK_BYTES_MAX) ? Number(windowBytes) : BLOCK_BYTES_MAX);
  return { contentBytes, windowBytes, hasChecksum, headerBytes: offset };
}

function contentSize(bytes, offset, sizeBytes) {
  switch (sizeBytes) {
    case 1:
      return BigInt(bytes[offset]);
    case 2:
      return BigInt(bytes.readUInt16LE(offset)) + 256n;
    case 4:
      return BigInt(bytes.readUInt32LE(offset));
    case 8:
      return bytes.readBigUInt64LE(offset);
    default:
      throw malformed('zstd frame without content size');
  }
}

/** Step from block to block; the last one (and the checksum) must end the data. */
function walkBlocks(bytes, start, hasChecksum, blockBytesMax) {
  let offset = start;
  for (let isLast = false; !isLast;) {
    if (offset + 3 > bytes.length) throw malformed(`zstd frame is cut off at byte ${bytes.length}`);
    const header = bytes.readUIntLE(offset, 3);
    const [type, size] = [(header >> 1) & 3, header >> 3];
    if (type === RESERVED) throw malformed('zstd block of the reserved type');
    if (size > blockBytesMax) throw malformed(`zstd block of ${size} bytes, at most ${blockBytesMax} are allowed`);
    isLast = Boolean(header & 1);
    offset += 3 + (type === RLE ? 1 : size);
  }
  const end = offset + (hasChecksum ? 4 : 0);
  if (end !== bytes.length) throw malformed(`zstd frame ends at byte ${end} of ${bytes.length}`);
}

/** The frame with a header that declares no larger window than its content: the package allocates what is declared. */
function withoutWindow(data, headerBytes, contentBytes, hasChecksum) {
  const header = Buffer.alloc(13);
  header.writeUInt32LE(MAGIC, 0);
  header[4] = 0xe0 | (hasChecksum ? 0x04 : 0); // a single segment, its size in eight bytes
  header.writeBigUInt64LE(contentBytes, 5);
  return Buffer.concat([header, data.subarray(headerBytes)]);
}

/**
 * Decompress exactly one frame that declares `size` bytes and, where `windowMax` isn't null, a window of at most that.
 * Throws MalformedMessage. Allocates little more than `size`.
 */
export function decompress(data, size, windowMax) {
  const { contentBytes, windowBytes, hasChecksum, headerBytes } = inspect(data);
  if (contentBytes !== BigInt(size)) throw malformed(`zstd frame declares ${contentBytes} bytes, expected ${size}`);
  if (windowMax !== null && windowBytes > BigInt(windowMax))
    throw malformed(`zstd window of ${windowBytes} bytes, at most ${windowMax} are allowed`);
  const output = Buffer.alloc(size);
  let filled = 0;
  const decoder = new Decompress((block) => {
    if (filled + block.length > size) throw malformed(`zstd frame holds more than the ${size} bytes that it declares`);
    output.set(block, filled);
    filled += block.length;
  });
  try {
    decoder.push(windowBytes > contentBytes ? withoutWindow(data, headerBytes, contentBytes, hasChecksum) : data, true);
  } catch (error) {
    // Whatever the package throws about these bytes, it is the sender's fault.
    throw error.isRemote ? error : malformed(`zstd: ${error.message}`);
  }
  if (filled !== size) throw malformed(`zstd frame holds ${filled} bytes, it declares ${size}`);
  if (hasChecksum && Number(xxh64(output) & 0xffffffffn) !== Buffer.from(data).readUInt32LE(data.length - 4)) {
    throw malformed('zstd checksum does not match');
  }
  return output;
}
