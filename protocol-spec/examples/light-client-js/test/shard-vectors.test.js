// The vectors of chapter 8: manifests, chunks, and who holds what.

import assert from 'node:assert/strict';
import { taggedHash } from '../lib/blake3.js';
import { u64 } from '../lib/bytes.js';
import { checkChild, decodeManifest, Manifest } from '../lib/manifest.js';
import { encode } from '../lib/msgpack.js';
import { contentAddress } from '../lib/ranges.js';
import { decodeShard } from '../lib/shards.js';
import { eachVector, fieldsOf, flat, plain, unspell } from './support.js';

eachVector('manifests', (each) => {
  const manifest = decodeManifest(unspell(each.encoded));
  if ('parent_encoded' in each) checkChild(manifest, decodeManifest(unspell(each.parent_encoded)));
  if ('manifest' in each) assert.deepEqual(plain(manifest), flat(each.manifest));
  assert.deepEqual(encode(manifest, Manifest), unspell(each.encoded));
  if ('digest' in each) assert.equal(plain(contentAddress(unspell(each.encoded))), each.digest);
});

eachVector('chunks', (each) => {
  const shard = fieldsOf(each.shard);
  const entry = { ...shard, slices: shard.slices.map(fieldsOf) };
  for (const name of ['decodedDigest', 'chunk', 'base']) entry[name] = unspell(shard[name]);
  const decoded = decodeShard(
    { tensors: each.tensors },
    entry,
    unspell(each.chunk),
    each.base === null ? null : unspell(each.base),
  );
  if ('decoded' in each) assert.deepEqual(decoded, unspell(each.decoded));
});

/** The logarithm to base 2 in fixed point (8.10/2). */
function logarithm(argument) {
  const e = BigInt(argument.toString(2).length - 1);
  let m = argument << (64n - e);
  let r = e;
  for (let i = 0; i < 32; i += 1) {
    m = (m * m) >> 64n;
    const b = m >> 65n;
    m >>= b;
    r = 2n * r + b;
  }
  return r;
}

/** Addresses of the holders of a shard (8.10/4). */
function holders(key, candidates, replication) {
  const left = candidates
    .filter(([, weight]) => BigInt(weight) > 0n)
    .map(([address, weight, operator, network]) => {
      const x = taggedHash('placement', key, unspell(address)).readBigUInt64LE(0);
      const cost = 64n * 2n ** 32n - logarithm(x + 1n);
      return { address, operator, network, rate: (cost * 2n ** 64n) / BigInt(weight) };
    });
  left.sort((a, b) => (a.rate < b.rate ? -1 : Number(a.rate > b.rate)) || (a.address < b.address ? -1 : 1));
  const chosen = [];
  const conflicts = (one) =>
    chosen.filter(({ operator }) => operator !== '' && operator === one.operator).length +
    chosen.filter(({ network }) => network !== '' && network === one.network).length;
  while (left.length > 0 && chosen.length < replication) {
    const counts = left.map(conflicts);
    chosen.push(...left.splice(counts.indexOf(Math.min(...counts)), 1));
  }
  return chosen.map(({ address }) => address);
}

// A light client holds no shards. The formula is here since it has to come out alike in every language.
eachVector('placement', (each) => {
  if (each.operation === 'key') {
    const place = BigInt(each.column) > 0n ? [u64(each.row), u64(each.column)] : [u64(each.row)];
    assert.equal(plain(taggedHash('shard position', Buffer.from(each.tensor, 'utf8'), ...place)), each.key);
  } else if (each.operation === 'logarithm') {
    assert.equal(logarithm(BigInt(each.argument)), BigInt(each.logarithm));
  } else {
    assert.deepEqual(holders(unspell(each.key), each.candidates, Number(each.replication)), each.holders);
  }
});
