// Content addresses, and ranges of blocks that are verified by themselves (1.5).

import { blake3 } from '@noble/hashes/blake3.js';
import { taggedHash } from './blake3.js';
import { u64 } from './bytes.js';
import { malformed, RemoteError } from './errors.js';

export const BLOCK_BYTES = 16_384;
const LEAF = { context: Buffer.from('deepshard 2026-11 v1 range leaf', 'ascii') };

/** Number of blocks of data of `size` bytes (1.5/1). */
export const blockCount = (size) => Math.max(1, Math.ceil(size / BLOCK_BYTES));

const blockHash = (block) => Buffer.from(blake3(block, LEAF)); // 1.5/2
export const nodeHash = (left, right) => taggedHash('merkle node', left, right); // 1.5/3
const addressOf = (size, root) => taggedHash('content', u64(size), root); // 1.5/4

/** The largest power of two below n (1.5/3). */
export function splitOf(n) {
  let k = 1;
  while (k * 2 < n) k *= 2;
  return k;
}

/** Hash of the subtree over the blocks from `low` to below `high` (1.5/3). */
function treeHash(data, low, high) {
  if (high - low === 1) return blockHash(data.subarray(low * BLOCK_BYTES, high * BLOCK_BYTES));
  const middle = low + splitOf(high - low);
  return nodeHash(treeHash(data, low, middle), treeHash(data, middle, high));
}

/** Root of the tree over all blocks of data. */
export const treeRoot = (data) => treeHash(data, 0, blockCount(data.length));

/** The content address of data (1.5/4). */
export const contentAddress = (data) => addressOf(data.length, treeRoot(data));

/** The proof of the `count` blocks from `first` on (1.5/6). */
export function proveRange(data, first, count) {
  const walk = (low, high) => {
    if (high <= first || low >= first + count) return [treeHash(data, low, high)];
    if (low >= first && high <= first + count) return [];
    const middle = low + splitOf(high - low);
    return [...walk(low, middle), ...walk(middle, high)];
  };
  return walk(0, blockCount(data.length));
}

/** Bytes of a range: from the first block to the end of the last (1.5/5). */
export const rangeBytes = (size, first, count) => Math.min(size, (first + count) * BLOCK_BYTES) - first * BLOCK_BYTES;

/**
 * Check that `bytes` are the `count` blocks from `first` on of the data with this address and size (1.5/7).
 * Throws MalformedMessage if the shape is wrong, CorruptRange if the content is.
 */
export function verifyRange({ address, size, first, count, bytes, proof }) {
  const blocks = blockCount(size);
  if (count < 1 || first < 0 || first + count > blocks)
    throw malformed(`blocks ${first} to ${first + count} of ${blocks}`);
  const expected = rangeBytes(size, first, count);
  if (bytes.length !== expected) throw malformed(`range of ${bytes.length} bytes, expected ${expected}`);
  let taken = 0;
  const walk = (low, high) => {
    if (high <= first || low >= first + count) {
      if (taken === proof.length) throw malformed('range proof has too few hashes');
      taken += 1;
      return proof[taken - 1];
    }
    if (high - low === 1) return blockHash(bytes.subarray((low - first) * BLOCK_BYTES, (high - first) * BLOCK_BYTES));
    const middle = low + splitOf(high - low);
    return nodeHash(walk(low, middle), walk(middle, high));
  };
  const root = walk(0, blocks);
  if (taken !== proof.length) throw malformed(`range proof has ${proof.length - taken} hashes too many`);
  if (!addressOf(size, root).equals(address))
    throw new RemoteError('CorruptRange', 'range does not lead to the content address');
}
