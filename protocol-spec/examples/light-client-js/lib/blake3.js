// BLAKE3 as the protocol uses it: plain, tagged (1.3/1), and expanded (1.4/1).

import { blake3 } from '@noble/hashes/blake3.js';
import { concat, u64 } from './bytes.js';

const CONTEXT = 'deepshard 2026-11 v1 ';

const contexts = new Map();

function context(tag) {
  if (!contexts.has(tag)) contexts.set(tag, Buffer.from(CONTEXT + tag, 'utf8'));
  return contexts.get(tag);
}

/** BLAKE3 of bytes, 32 bytes. */
export function plainHash(data) {
  return Buffer.from(blake3(data));
}

/** BLAKE3 in derive-key mode over the parts, each after its length as u64 (1.3/1). */
export function taggedHash(tag, ...parts) {
  return Buffer.from(blake3(concat(...parts.flatMap((part) => [u64(part.length), part])), { context: context(tag) }));
}

/** BLAKE3 in derive-key mode over the bytes alone, with `length` bytes of output (1.4/1). */
export function expand(seed, tag, length = 32) {
  return Buffer.from(blake3(seed, { context: context(tag), dkLen: length }));
}
