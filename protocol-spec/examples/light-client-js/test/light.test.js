import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addressOf, secretKey, sign } from '../lib/ed25519.js';
import { blockId, trustHeader, verifySequential, verifySkipping } from '../lib/light.js';
import { verifyState } from '../lib/state.js';
import { taggedHash } from '../lib/blake3.js';
import { PRECOMMIT, validatorsHash, verifyCertificate, voteSignBytes } from '../lib/validators.js';
import { noise, refuses } from './support.js';

const NOW = 1_000_000;
const PERIOD = 7 * 24 * 3600 * 1000;
const CHAIN = 'test';
const KEYS = new Map(
  Array.from({ length: 8 }, (_, i) => secretKey(Buffer.alloc(32, i + 1))).map((key) => [
    addressOf(key.public).toString('hex'),
    key,
  ]),
);
const all = [...KEYS.values()];

/** A set of these keys, each of power 1 unless said otherwise. */
function setOf(keys, powers = keys.map(() => 1n)) {
  const validators = keys.map((key, i) => ({
    address: addressOf(key.public),
    publicKey: key.public,
    power: powers[i],
  }));
  return { validators: validators.sort((a, b) => Buffer.compare(a.address, b.address)) };
}

const FIRST = setOf(all.slice(0, 4));
const LATER = setOf(all.slice(2, 6)); // two of the first four
const genesis = {
  chainId: CHAIN,
  height: 0n,
  blockId: noise(32),
  timeMs: 1000n,
  validators: FIRST,
  nextValidatorsHash: validatorsHash(FIRST),
  header: null,
};

function lightBlock(
  height,
  { parent = noise(32), set = FIRST, next = set, signers = set.validators, header: changes = {}, ...certificate } = {},
) {
  const header = {
    version: 1,
    chainId: CHAIN,
    height,
    timeMs: 1000n + height,
    parentId: parent,
    proposer: set.validators[0].address,
    lastCommitHash: noise(32, 1),
    transactionsRoot: noise(32, 2),
    stateRoot: noise(32, 3),
    receiptsRoot: noise(32, 4),
    validatorsHash: validatorsHash(set),
    nextValidatorsHash: validatorsHash(next),
    manifest: noise(32, 5),
    onionPreimage: noise(32, 6),
    ...changes,
  };
  const vote = { kind: PRECOMMIT, height, round: 2, validRound: -1, blockId: blockId(header), ...certificate };
  const signed = voteSignBytes(CHAIN, vote);
  const signatures = signers.map(({ address }) => ({
    validator: address,
    signature: sign(KEYS.get(address.toString('hex')), 'vote', signed),
  }));
  return {
    header,
    validators: set,
    certificate: { height: vote.height, round: vote.round, blockId: vote.blockId, signatures },
  };
}

test('a header is accepted after its parent, and what it announced is what comes (10.5/4)', () => {
  const one = lightBlock(1n, { parent: genesis.blockId, next: LATER });
  const trusted = verifySequential(genesis, one, NOW, PERIOD);
  assert.equal(trusted.height, 1n);
  const two = lightBlock(2n, { parent: trusted.blockId, set: LATER });
  assert.equal(verifySequential(trusted, two, NOW, PERIOD).height, 2n);
  assert.equal(verifySkipping(trusted, two, NOW, PERIOD).height, 2n);
  refuses('InvalidLightBlock', () => verifySequential(trusted, one, NOW, PERIOD));
  refuses('InvalidLightBlock', () => verifySkipping(trusted, one, NOW, PERIOD));
  refuses('InvalidLightBlock', () => verifySequential(trusted, lightBlock(2n, { set: LATER }), NOW, PERIOD));
  refuses('InvalidLightBlock', () =>
    verifySkipping(trusted, lightBlock(2n, { parent: trusted.blockId, set: FIRST }), NOW, PERIOD),
  );
});

test('skipping needs more than a third of the trusted power, measured by the trusted set (10.5/5)', () => {
  assert.equal(verifySkipping(genesis, lightBlock(9n, { set: LATER }), NOW, PERIOD).height, 9n);
  const third = setOf(all.slice(3, 7)); // one of four
  refuses('InsufficientTrust', () => verifySkipping(genesis, lightBlock(9n, { set: third }), NOW, PERIOD));
  const strong = setOf(all.slice(3, 7), [97n, 1n, 1n, 1n]); // powers of the new set don't count
  refuses('InsufficientTrust', () => verifySkipping(genesis, lightBlock(9n, { set: strong }), NOW, PERIOD));
  const shared = LATER.validators.filter(({ address }) =>
    FIRST.validators.some((each) => each.address.equals(address)),
  );
  refuses('InvalidLightBlock', () => verifySkipping(genesis, lightBlock(9n, { set: LATER, signers: shared }), NOW, PERIOD)); // no quorum of its own
});

test('a light block that contradicts itself is refused (10.5/2, 10.5/3)', () => {
  const wrong = [
    { header: { version: 2 } },
    { header: { chainId: 'other' } },
    { header: { timeMs: 1000n } },
    { header: { timeMs: BigInt(NOW) + 10_001n } },
    { header: { validatorsHash: noise(32, 9) } },
    { height: 6n },
    { blockId: noise(32, 9) },
    { kind: 1 },
    { signers: FIRST.validators.slice(0, 2) },
    { signers: FIRST.validators.toReversed() },
    { signers: [...FIRST.validators, FIRST.validators[3]] },
    { signers: LATER.validators },
  ];
  assert.equal(verifySkipping(genesis, lightBlock(5n, { signers: FIRST.validators.slice(1) }), NOW, PERIOD).height, 5n);
  assert.equal(verifySkipping(genesis, lightBlock(5n, { header: { timeMs: BigInt(NOW) + 10_000n } }), NOW, PERIOD).height, 5n);
  for (const change of wrong) refuses('InvalidLightBlock', () => verifySkipping(genesis, lightBlock(5n, change), NOW, PERIOD));
});

test('certificates: exactly two thirds is no quorum, and one bad signature spoils all (10.4)', () => {
  const set = setOf(all.slice(0, 3));
  const check = ({ certificate, header }) => verifyCertificate(CHAIN, set, certificate, blockId(header), header.height);
  refuses('InsufficientPower', () => check(lightBlock(3n, { set, signers: set.validators.slice(1) })));
  check(lightBlock(3n, { set }));
  const block = lightBlock(3n, { set: FIRST });
  block.certificate.signatures[3].signature = noise(64);
  refuses('InvalidCertificate', () => verifyCertificate(CHAIN, FIRST, block.certificate, blockId(block.header), 3n));
  refuses('InvalidCertificate', () => verifyCertificate(CHAIN, FIRST, block.certificate, Buffer.alloc(32), 3n));
});

test('trust ends with its period, and begins with a header that a person names (10.5/7)', () => {
  const block = lightBlock(5n);
  assert.throws(() => verifySkipping(genesis, block, 1050, 50), { name: 'TrustExpired' });
  assert.equal(trustHeader(CHAIN, block, blockId(block.header), NOW, PERIOD).height, 5n);
  refuses('InvalidLightBlock', () => trustHeader(CHAIN, block, noise(32), NOW, PERIOD));
  assert.throws(() => trustHeader(CHAIN, block, blockId(block.header), NOW, 1000), { name: 'TrustExpired' });
});

test('state proofs of a value and of absence (10.6)', () => {
  const key = Buffer.from('chain');
  const path = taggedHash('trie key', key);
  const value = Buffer.from('value');
  const leaf = taggedHash('trie leaf', path, taggedHash('trie value', value));
  verifyState(leaf, key, value, { steps: [], other: null });
  verifyState(taggedHash('trie empty'), key, null, { steps: [], other: null });
  const flipped = Buffer.from(path);
  flipped[0] ^= 0x20; // bit 2
  const other = { path: flipped, valueHash: noise(32) };
  const otherLeaf = taggedHash('trie leaf', other.path, other.valueHash);
  const isRight = Boolean(path[0] & 0x20);
  const root = taggedHash('trie branch', Buffer.of(0, 2), ...(isRight ? [otherLeaf, leaf] : [leaf, otherLeaf]));
  verifyState(root, key, value, { steps: [{ bit: 2, sibling: otherLeaf }], other: null });
  verifyState(otherLeaf, key, null, { steps: [], other });
  for (const [at, proven, proof] of [
    [root, value, { steps: [{ bit: 3, sibling: otherLeaf }], other: null }],
    [root, null, { steps: [{ bit: 2, sibling: leaf }], other }],
    [root, value, { steps: [{ bit: 2, sibling: otherLeaf }], other }],
    [
      root,
      value,
      {
        steps: [
          { bit: 2, sibling: otherLeaf },
          { bit: 2, sibling: otherLeaf },
        ],
        other: null,
      },
    ],
    [leaf, null, { steps: [], other: null }],
    [leaf, null, { steps: [], other: { path, valueHash: noise(32) } }],
    [root, null, { steps: [{ bit: 2, sibling: otherLeaf }], other: null }],
  ])
    refuses('MalformedMessage', () => verifyState(at, key, proven, proof));
});
