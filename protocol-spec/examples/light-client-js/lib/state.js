// The state tree: proofs that a key has a value, or that it is absent (10.6).

import { taggedHash } from './blake3.js';
import { malformed } from './errors.js';
import { decode, int, list, optional, record } from './msgpack.js';
import { digest } from './types.js';

const STEPS_MAX = 160;
const PROOF_BYTES_MAX = 8 * 1024; // 160 steps of at most 38 bytes, and a leaf

const ProofStep = record('ProofStep', { bit: int(0, 255), sibling: digest });
const ProofLeaf = record('ProofLeaf', { path: digest, valueHash: digest });
export const Proof = record('Proof', { steps: list(ProofStep, STEPS_MAX), other: optional(ProofLeaf) });

export const decodeProof = (bytes) => decode(bytes, Proof, PROOF_BYTES_MAX);

const bitOf = (path, i) => (path[i >> 3] >> (7 - (i & 7))) & 1; // 10.6/1
const leafHash = (path, valueHash) => taggedHash('trie leaf', path, valueHash); // 10.6/3

/** Hash of the node that is below all steps (10.6/8, 10.6/9); null for the empty map. */
function lowest(path, value, { steps, other }) {
  if (value !== null) {
    if (other !== null) throw malformed('proof of a value with another entry');
    return leafHash(path, taggedHash('trie value', value));
  }
  if (other === null) {
    if (steps.length > 0) throw malformed('proof of absence without an entry');
    return null;
  }
  if (other.path.equals(path)) throw malformed('proof of absence with the entry of the key');
  if (steps.some(({ bit }) => bitOf(other.path, bit) !== bitOf(path, bit))) {
    throw malformed('proof of absence with an entry where the search does not end');
  }
  return leafHash(other.path, other.valueHash);
}

/** Check that `key` has `value` (null: is absent) under a state root. Throws MalformedMessage if not. */
export function verifyState(root, key, value, proof) {
  const { steps } = proof;
  if (steps.some(({ bit }, i) => i > 0 && bit <= steps[i - 1].bit)) throw malformed('proof with bits out of order'); // 10.6/7
  const path = taggedHash('trie key', key);
  let hash = lowest(path, value, proof);
  if (hash === null) hash = taggedHash('trie empty'); // 10.6/2
  for (const { bit, sibling } of steps.toReversed()) {
    const number = Buffer.of(0, bit); // two bytes, big-endian (10.6/4)
    hash = bitOf(path, bit)
      ? taggedHash('trie branch', number, sibling, hash)
      : taggedHash('trie branch', number, hash, sibling);
  }
  if (!hash.equals(root)) throw malformed('proof does not lead to the state root'); // 10.6/10
}
