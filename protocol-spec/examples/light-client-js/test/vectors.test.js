// The vectors of protocol-spec/vectors: each case is accepted or refused as it says, by the error's name.

import assert from 'node:assert/strict';
import { addressOf, formatAddress, messageOf, parseAddress, secretKey, verify } from '../lib/ed25519.js';
import { RemoteError, UsageError } from '../lib/errors.js';
import { merkleRoot, verifyMerkle } from '../lib/merkle.js';
import { decode, encode } from '../lib/msgpack.js';
import { eachVector, fieldsOf, flat, plain, positional, skipped, unspell } from './support.js';
import { TYPES } from './types.js';

eachVector('encoding', (each) => {
  const type = TYPES[each.type];
  if (type === undefined) return skipped;
  if ('every_prefix_of' in each) {
    const whole = unspell(each.every_prefix_of);
    for (let length = 0; length < whole.length; length += 1) {
      assert.throws(() => decode(whole.subarray(0, length), type, each.bytes_max), { name: each.expect.error });
    }
    decode(whole, type, each.bytes_max);
    throw new RemoteError(each.expect.error, 'every one of them');
  }
  const encoded = unspell(each.encoded);
  const value = decode(encoded, type, each.bytes_max);
  if ('value' in each) assert.deepEqual(positional(value), flat(each.value));
  if ('length' in each) assert.equal(value.length, each.length);
  assert.deepEqual(encode(value, type), encoded);
  return undefined;
});

eachVector('merkle', (each) => {
  if ('leaves' in each) {
    assert.equal(merkleRoot(each.leaves.map(unspell)).toString('hex'), each.root);
    return;
  }
  const proof = fieldsOf(each.proof);
  verifyMerkle(unspell(each.root), unspell(each.leaf), { ...proof, siblings: proof.siblings.map(unspell) });
});

eachVector('identities', (each) => {
  if ('seed' in each) {
    const key = secretKey(unspell(each.seed));
    assert.equal(key.public.toString('hex'), each.public_key);
    assert.equal(addressOf(key.public).toString('hex'), each.address);
    assert.equal(formatAddress(unspell(each.address)), each.text);
    return;
  }
  if ('unordered' in each) {
    assert.deepEqual(each.unordered.map(unspell).sort(Buffer.compare).map(plain), each.ordered);
    return;
  }
  const address = parseAddress(each.text);
  if (address === null) throw new UsageError('not an address');
  assert.equal(address.toString('hex'), each.address);
});

eachVector('signatures', (each) => {
  const payload = unspell(each.payload);
  if ('message' in each) assert.equal(messageOf(each.tag, payload).toString('hex'), each.message);
  if (!verify(unspell(each.public_key), each.tag, payload, unspell(each.signature))) throw new RemoteError('BadSignature', 'refused');
});
