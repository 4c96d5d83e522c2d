import assert from 'node:assert/strict';
import { test } from 'node:test';
import { expand, plainHash, taggedHash } from '../lib/blake3.js';
import {
  addressOf,
  agree,
  ephemeralKey,
  formatAddress,
  messageOf,
  parseAddress,
  secretKey,
  sign,
  verify,
  verifyMessage,
} from '../lib/ed25519.js';
import { bool, bytes, decode, encode, enumeration, int, list, optional, record, text, tuple } from '../lib/msgpack.js';
import { merkleRoot, verifyMerkle } from '../lib/merkle.js';
import {
  BLOCK_BYTES,
  blockCount,
  contentAddress,
  nodeHash,
  proveRange,
  rangeBytes,
  verifyRange,
} from '../lib/ranges.js';
import { xxh64 } from '../lib/xxh64.js';
import { decompress } from '../lib/zstd.js';
import { hex, noise, refuses } from './support.js';

test('BLAKE3: the published vectors of the empty input and of "abc"', () => {
  assert.equal(
    plainHash(Buffer.alloc(0)).toString('hex'),
    'af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262',
  );
  assert.equal(
    plainHash(Buffer.from('abc')).toString('hex'),
    '6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85',
  );
});

test('tagged hashes separate tags and parts (1.3)', () => {
  const [a, b, c] = ['ab', 'c', 'bc'].map((part) => Buffer.from(part));
  const hashes = [
    taggedHash('x', a, b),
    taggedHash('x', Buffer.from('a'), c),
    taggedHash('y', a, b),
    taggedHash('x', a, b, Buffer.alloc(0)),
  ];
  assert.equal(new Set(hashes.map(String)).size, 4);
  assert.deepEqual(expand(a, 'x', 100).subarray(0, 32), expand(a, 'x'));
});

test('one form for each integer, the shortest (2.1)', () => {
  const any = int(-(2n ** 63n), 2n ** 64n - 1n);
  const edges = [0n, 127n, 128n, 255n, 256n, 65535n, 65536n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 64n - 1n];
  const below = [-1n, -32n, -33n, -128n, -129n, -32768n, -32769n, -(2n ** 31n), -(2n ** 31n) - 1n, -(2n ** 63n)];
  for (const value of [...edges, ...below]) assert.equal(decode(encode(value, any), any, 9), value);
  for (const longer of [
    'cc7f',
    'cd00ff',
    'ce0000ffff',
    'cf00000000ffffffff',
    'd0e0',
    'd1ff80',
    'd2ffff8000',
    'd3ffffffff80000000',
    'd000',
    'd10080',
  ]) {
    refuses('MalformedMessage', () => decode(hex(longer), any, 9));
  }
});

test('what is not canonical is refused (2.1, 2.2, 2.4)', () => {
  const type = record('Thing', {
    flag: bool,
    data: optional(bytes(0, 4)),
    name: text(3),
    pairs: list(tuple(int(0, 9), enumeration('a', 'b')), 2),
  });
  const value = { flag: true, data: hex('0102'), name: 'öß', pairs: [[9, 'b']] };
  const good = encode(value, type);
  assert.deepEqual(decode(good, type, good.length), value);
  refuses('OversizedMessage', () => decode(good, type, good.length - 1));
  for (let length = 0; length < good.length; length += 1)
    refuses('MalformedMessage', () => decode(good.subarray(0, length), type, 99));
  for (const bad of [
    `${good.toString('hex')}00`,
    '95c3c0a090c0',
    '93c3c0a0',
    '94c2c0a091920aa161',
    '94c2c0a0919209a163',
    '94c2c0a4616161619090',
    '94c2c0a2c3289090',
    '94c2c0d90090',
    'dc0004c2c0a090',
    '9401c0a090',
    '94c2ca00000000a090',
    '94c2c50000a090',
    '94c2a101a090',
    '94c2c0a0ddffffffff',
    '94c2c0a3eda08090',
    '80',
    'c1',
    'd40000',
  ])
    refuses('MalformedMessage', () => decode(hex(bad), type, 99));
});

test('signatures are for one purpose and of one form (3.2)', () => {
  const secret = secretKey(Buffer.alloc(32, 7));
  const payload = Buffer.from('payload');
  const signature = sign(secret, 'vote', payload);
  assert.equal(verify(secret.public, 'vote', payload, signature), true);
  assert.equal(verify(secret.public, 'frame', payload, signature), false);
  assert.equal(verifyMessage(secret.public, payload, signature), false);
  assert.equal(verify(secret.public, 'vote', payload, signature.subarray(0, 63)), false);
  assert.equal(verify(secret.public.subarray(1), 'vote', payload, signature), false);
  const order = 2n ** 252n + 27742317777372353535851937790883648493n;
  const s = BigInt(`0x${Buffer.from(signature.subarray(32)).reverse().toString('hex')}`) + order;
  const shifted = hex(s.toString(16).padStart(64, '0')).reverse();
  assert.equal(verify(secret.public, 'vote', payload, Buffer.concat([signature.subarray(0, 32), shifted])), false);
  assert.equal(messageOf('vote', payload).length, 32);
});

test('points of small order sign nothing (3.2/5)', () => {
  const one = Buffer.concat([hex('01'), Buffer.alloc(31)]);
  assert.equal(verifyMessage(one, Buffer.from('m'), Buffer.concat([one, Buffer.alloc(32)])), false);
});

test('addresses have one text form (3.1)', () => {
  const address = addressOf(secretKey(Buffer.alloc(32, 1)).public);
  const written = formatAddress(address);
  assert.match(written, /^ds1[a-z2-7]{39}$/);
  assert.deepEqual(parseAddress(` ${written}\n`), address);
  for (const wrong of [
    written.toUpperCase(),
    written.slice(0, -1),
    `${written}a`,
    written.replace('ds1', 'ds2'),
    `${written.slice(0, 10)}${written[10] === 'a' ? 'b' : 'a'}${written.slice(11)}`,
  ]) {
    assert.equal(parseAddress(wrong), null);
  }
});

test('X25519 refuses keys of low order (1.7/2)', () => {
  const [a, b] = [1, 2].map((byte) => ephemeralKey(Buffer.alloc(32, byte)));
  assert.deepEqual(agree(a, b.public), agree(b, a.public));
  assert.equal(agree(a, Buffer.alloc(32)), null);
  assert.equal(agree(a, Buffer.concat([hex('01'), Buffer.alloc(31)])), null);
});

test('every range of every shape of tree is verified, and any change refused (1.5)', () => {
  const other = noise(32, 9);
  for (const size of [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES - 3, 7 * BLOCK_BYTES]) {
    const data = noise(size);
    const address = contentAddress(data);
    const blocks = blockCount(size);
    for (let first = 0; first < blocks; first += 1) {
      for (let count = 1; first + count <= blocks; count += 1) {
        const proof = proveRange(data, first, count);
        const bytes = data.subarray(first * BLOCK_BYTES, first * BLOCK_BYTES + rangeBytes(size, first, count));
        const good = { address, size, first, count, bytes, proof };
        verifyRange(good);
        assert.equal(proof.length === 0, count === blocks); // 1.5/8
        const shapes = [
          { proof: [...proof, other] },
          { first: blocks },
          { count: 0 },
          { bytes: Buffer.concat([bytes, hex('00')]) },
        ];
        const contents = [{ address: other }];
        if (proof.length > 0) shapes.push({ proof: proof.slice(1) });
        if (proof.length > 0) contents.push({ proof: [other, ...proof.slice(1)] });
        if (bytes.length > 0) shapes.push({ bytes: bytes.subarray(1) });
        if (bytes.length > 0) contents.push({ bytes: Buffer.concat([Buffer.of(bytes[0] ^ 1), bytes.subarray(1)]) });
        for (const change of shapes) refuses('MalformedMessage', () => verifyRange({ ...good, ...change }));
        for (const change of contents) refuses('CorruptRange', () => verifyRange({ ...good, ...change }));
        assert.throws(() => verifyRange({ ...good, size: size + 1 }), { isRemote: true }); // a part of the address
      }
    }
  }
});

test('Merkle proofs over lists (1.6)', () => {
  const leaves = ['a', 'b', 'c'].map((leaf) => Buffer.from(leaf));
  const [a, b, c] = leaves.map((leaf) => taggedHash('merkle leaf', leaf));
  const root = nodeHash(nodeHash(a, b), c);
  assert.deepEqual(merkleRoot(leaves), root);
  verifyMerkle(root, leaves[1], { index: 1, leafCount: 3, siblings: [a, c] });
  verifyMerkle(root, leaves[2], { index: 2, leafCount: 3, siblings: [nodeHash(a, b)] });
  refuses('MalformedMessage', () => verifyMerkle(root, leaves[1], { index: 3, leafCount: 3, siblings: [a, c] }));
  refuses('MalformedMessage', () => verifyMerkle(root, leaves[1], { index: 1, leafCount: 3, siblings: [a] }));
  refuses('MalformedMessage', () => verifyMerkle(root, leaves[1], { index: 0, leafCount: 3, siblings: [a, c] }));
});

test('zstd: exactly one frame of the size and window that it declares (5.2/7)', () => {
  // Of `'abc' * 100` with a checksum, and of 300 zero bytes.
  const [frame, zeros] = [
    '28b52ffd642c0055000018616263010026aa6e082bac9d8f',
    '28b52ffd602c004d00001000000100272ac002',
  ].map(hex);
  const data = Buffer.from('abc'.repeat(100));
  assert.deepEqual(decompress(frame, 300, 1024), data);
  assert.deepEqual(decompress(zeros, 300, 1024), Buffer.alloc(300));
  const flipped = Buffer.from(frame);
  flipped[flipped.length - 1] ^= 1;
  const wrong = [
    flipped,
    frame.subarray(0, -1),
    Buffer.concat([frame, hex('00')]),
    Buffer.concat([frame, frame]),
    hex('28b52ffd'),
  ];
  for (const bad of wrong) refuses('MalformedMessage', () => decompress(bad, 300, 1024));
  // The same content behind a header that declares a window of 2 GiB, which isn't allocated.
  const wide = Buffer.concat([hex('28b52ffd44a82c00'), frame.subarray(7)]);
  assert.deepEqual(decompress(wide, 300, null), data);
  refuses('MalformedMessage', () => decompress(wide, 300, 1 << 22));
  refuses('MalformedMessage', () => decompress(frame, 299, 1024));
  refuses('MalformedMessage', () => decompress(frame, 300, 299));
});

test('XXH64: published values', () => {
  assert.equal(xxh64(Buffer.alloc(0)), 0xef46db3751d8e999n);
  assert.equal(xxh64(Buffer.from('abc')), 0x44bc2cf5ad770999n);
});
