// Merkle trees over lists (1.6).

import { taggedHash } from './blake3.js';
import { malformed } from './errors.js';
import { nodeHash, splitOf } from './ranges.js';

const leafHash = (leaf) => taggedHash('merkle leaf', leaf);

/** Root over a list of byte strings (1.6/1). */
export function merkleRoot(leaves) {
  if (leaves.length === 0) return taggedHash('merkle empty');
  const walk = (low, high) => {
    if (high - low === 1) return leafHash(leaves[low]);
    const middle = low + splitOf(high - low);
    return nodeHash(walk(low, middle), walk(middle, high));
  };
  return walk(0, leaves.length);
}

/** Check that `leaf` stands at `index` of `leafCount` under `root` (1.6/3). Throws MalformedMessage if not. */
export function verifyMerkle(root, leaf, { index, leafCount, siblings }) {
  if (index >= leafCount) throw malformed(`merkle proof for leaf ${index} of ${leafCount}`);
  const isLeft = []; // from the root downwards: whether the way to the leaf goes left
  for (let [low, high] = [0, leafCount]; high - low > 1;) {
    const middle = low + splitOf(high - low);
    isLeft.push(index < middle);
    [low, high] = index < middle ? [low, middle] : [middle, high];
  }
  if (isLeft.length !== siblings.length) {
    throw malformed(`merkle proof has ${siblings.length} siblings, expected ${isLeft.length}`);
  }
  let node = leafHash(leaf);
  for (const sibling of siblings) node = isLeft.pop() ? nodeHash(node, sibling) : nodeHash(sibling, node);
  if (!node.equals(root)) throw malformed('merkle proof does not lead to the root');
}
