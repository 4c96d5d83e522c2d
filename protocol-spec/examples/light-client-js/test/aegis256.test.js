import assert from 'node:assert/strict';
import { test } from 'node:test';
import { open, seal } from '../lib/aegis256.js';
import { hex } from './support.js';

// draft-irtf-cfrg-aegis-aead, "AEGIS-256 Test Vectors": key, nonce, ad, msg, ct, tag256.
const KEY = hex('1001000000000000000000000000000000000000000000000000000000000000');
const NONCE = hex('1000020000000000000000000000000000000000000000000000000000000000');
const VECTORS = [
  ['', '', '', '6a348c930adbd654896e1666aad67de989ea75ebaa2b82fb588977b1ffec864a'],
  [
    '0001020304050607',
    '000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f',
    'f373079ed84b2709faee373584585d60accd191db310ef5d8b11833df9dec711',
    'b7d28d0c3c0ebd409fd22b44160503073a547412da0854bfb9723020dab8da1a',
  ],
  [
    '0001020304050607',
    '000102030405060708090a0b0c0d',
    'f373079ed84b2709faee37358458',
    '8c1cc703c81281bee3f6d9966e14948b4a175b2efbdc31e61a98b4465235c2d9',
  ],
  [
    '000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223242526272829',
    '101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637',
    '57754a7d09963e7c787583a2e7b859bb24fa1e04d49fd550b2511a358e3bca252a9b1b8b30cc4a67',
    'a3aca270c006094d71c20e6910b5161c0826df233d08919a566ec2c05990f734',
  ],
];

test('the vectors of the draft, sealed and opened', () => {
  for (const [ad, plain, cipher, tag] of VECTORS) {
    const box = hex(cipher + tag);
    assert.deepEqual(seal(KEY, NONCE, hex(ad), hex(plain)), box);
    assert.deepEqual(open(KEY, NONCE, hex(ad), box), hex(plain));
  }
});

test('a box with any bit changed does not open', () => {
  const [ad, , cipher, tag] = VECTORS[2];
  const box = hex(cipher + tag);
  for (let bit = 0; bit < box.length * 8; bit += 1) {
    const changed = Buffer.from(box);
    changed[bit >> 3] ^= 1 << (bit & 7);
    assert.equal(open(KEY, NONCE, hex(ad), changed), null);
  }
  assert.equal(open(KEY, NONCE, hex('0001020304050608'), box), null);
  assert.equal(open(NONCE, KEY, hex(ad), box), null);
  for (let length = 0; length < box.length; length += 1)
    assert.equal(open(KEY, NONCE, hex(ad), box.subarray(0, length)), null);
});
