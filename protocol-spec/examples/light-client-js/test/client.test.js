// The client's steps against a node over TCP that is honest, or lies in one way.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addressOf, secretKey } from '../lib/ed25519.js';
import { Manifest, weightsRoot, ZERO_DIGEST } from '../lib/manifest.js';
import { Kind } from '../lib/messages.js';
import { encode, list, record, tuple } from '../lib/msgpack.js';
import { blockCount, contentAddress } from '../lib/ranges.js';
import { decodePlanes } from '../lib/shards.js';
import { run } from '../lib/steps.js';
import { amount, count, digest, height, publicKey } from '../lib/types.js';
import { FakeNode, LEAVE, makeChain, Trie } from './fake-node.js';
import { noise } from './support.js';

const BLOCKS = 6;
const ALL_KEYS = Array.from({ length: 9 }, (_, i) => secretKey(Buffer.alloc(32, i + 1)));
const KEYS = ALL_KEYS.slice(0, 4);
const always = () => KEYS;
const OURS = secretKey(Buffer.alloc(32, 9));
const [ROWS, WIDTH] = [600, 1000];
const TENSORS = [
  { name: 'layer', dtype: 'bf16', shape: [ROWS, WIDTH] },
  { name: 'bias', dtype: 'f32', shape: [7] },
];
const SLICES = [
  { tensor: 0, rowStart: 0, rowCount: ROWS, columnStart: 0, columnCount: 0 },
  { tensor: 1, rowStart: 0, rowCount: 7, columnStart: 0, columnCount: 0 },
];

/** A chunk with stored planes: the nine highest bits of each element rotated left by one, cut into bytes from the most significant on. */
function planesOf(decoded, spans) {
  const planes = spans.flatMap(([width, bytes], i) => {
    const start = spans.slice(0, i).reduce((sum, [, size]) => sum + size, 0);
    const elements = Array.from({ length: bytes / width }, (_, n) => decoded.readUIntLE(start + n * width, width));
    const low = 2 ** (8 * width - 9);
    const rotated = elements.map((value) => {
      const top = Math.floor(value / low);
      return ((top & 255) * 2 + (top >> 8)) * low + (value % low);
    });
    return Array.from({ length: width }, (_, k) =>
      Buffer.from(rotated.map((value) => Math.floor(value / 2 ** (8 * (width - 1 - k))) & 255)),
    );
  });
  const head = Buffer.alloc(1 + 4 * planes.length, 1);
  planes.forEach((plane, i) => head.writeUInt32LE(plane.length, 1 + 4 * i));
  return Buffer.concat([head, ...planes]);
}

const SPANS = [
  [2, ROWS * WIDTH * 2],
  [4, 28],
];

/** A manifest of one shard with this content, alone or as a delta on a parent. */
function version(decoded, parent = null) {
  const stored = Buffer.from(decoded);
  if (parent) for (let i = 0; i < stored.length; i += 1) stored[i] ^= parent.decoded[i];
  const chunk = planesOf(stored, SPANS);
  const shards = [
    {
      slices: SLICES,
      decodedBytes: decoded.length,
      decodedDigest: contentAddress(decoded),
      codec: parent ? 'xor-planes' : 'planes',
      chunk: contentAddress(chunk),
      chunkBytes: chunk.length,
      base: parent ? contentAddress(parent.decoded) : ZERO_DIGEST,
    },
  ];
  const fields = {
    format: 1,
    parent: parent ? contentAddress(parent.manifest) : ZERO_DIGEST,
    tensors: TENSORS,
    shards,
    files: [],
  };
  const root = weightsRoot(fields);
  return { decoded, chunk, root, manifest: encode({ ...fields, weightsRoot: root }, Manifest) };
}

const BASE = version(noise(ROWS * WIDTH * 2 + 28, 5));
const CHILD = version(Buffer.from(BASE.decoded).fill(7, 1000, 5000), BASE);
const byAddress = (blobs) => new Map(blobs.map((blob) => [contentAddress(blob).toString('hex'), blob]));
const BLOBS = byAddress([BASE, CHILD].flatMap(({ manifest, chunk }) => [manifest, chunk]));

const GENESIS = {
  chainId: 'test',
  timeMs: BigInt(Date.now() - 60_000),
  params: {
    transactionFee: 1n,
    proposalStakeMin: 1n,
    trainerStakeMin: 1n,
    validatorStakeMin: 1n,
    committeeSize: 1,
    tallyRule: 'quadratic',
    thresholdBaseBp: 1,
    thresholdDispersionBp: 1,
    thresholdFloorBp: 1,
    thresholdCeilingBp: 1,
    rejectedSlashBp: 1,
    equivocationSlashBp: 1,
    voteCommitBlocks: 1,
    voteRevealBlocks: 1,
    freezeBlocks: 1,
    joinBlocks: 1,
    commitBlocks: 1,
    revealBlocks: 1,
    reportBlocks: 1,
    graceBlocks: 1,
    unbondingBlocks: 1,
    epochBlocks: 1,
    jailBlocks: 1,
    blockIntervalMs: 1,
    trustingPeriodMs: 3_600_000,
    recipe: { passes: 1, batchSegments: 1, learningRateNano: 1, weightDecayNano: 1, segmentTokensMax: 2, lora: null },
    probes: {
      batch: 1,
      heldout: 1,
      rejected: 1,
      general: 1,
      perturbations: 1,
      tokensMax: 2,
      replacedBp: 1,
      spanTokens: 1,
    },
    verdict: { progressMargin: 1, heldoutLossMax: 1, rejectedGainBp: 1, profileDistanceMax: 1, updateDistanceMaxBp: 1 },
    mintPerRound: 1n,
    informantShareBp: 1,
    informantCapBp: 1,
    priceBase: 1n,
    priceKappaNano: 1,
    licenceEpochs: 1,
    feeHoldersBp: 1,
    feeTreasuryBp: 1,
    replication: 1,
    auditsPerEpoch: 0,
    auditBlocks: 0,
    auditSlashBp: 0,
  },
  validators: KEYS.map((key) => ({ publicKey: key.public, stake: 10n, onionTip: Buffer.alloc(32) })),
  accounts: [],
  manifest: noise(32),
  weightsRoot: noise(32),
  chunksRoot: noise(32),
  shardCount: 1,
  heldout: [],
  general: [],
  canaries: [],
};

function stateOf({ manifest, root }) {
  const model = { version: 3, manifest: contentAddress(manifest), weightsRoot: root, chunksRoot: noise(32), shardCount: 1, height: 2n, value: 1n };
  const licence = { buyer: OURS.public, firstVersion: 0, lastVersion: 3, price: 5n, height: 1n };
  return new Trie([
    ['chain', encode([6n, noise(32), 0, 3, 0], tuple(height, digest, count, count, count))],
    [
      'model/\0\0\0\0\0\0\0\u0003',
      encode(model, record('', { version: count, manifest: digest, weightsRoot: digest, chunksRoot: digest, shardCount: count, height, value: amount })),
    ],
    [
      `licence/${addressOf(OURS.public).toString('latin1')}`,
      encode(licence, record('', { buyer: publicKey, firstVersion: count, lastVersion: count, price: amount, height })),
    ],
    ['agenda', encode([[], []], tuple(list(digest), list(digest)))],
  ]);
}

/** Run the client against a node; gives the steps it told, the error it ended with, and the goodbyes the node got. */
async function follow({
  newest = BASE,
  blocks = (chain) => chain,
  keysAt = always,
  blobs = BLOBS,
  settings = {},
  lie,
} = {}) {
  const trie = stateOf(newest);
  const chain = makeChain(GENESIS, keysAt, BLOCKS, { stateRoot: trie.root, manifest: contentAddress(newest.manifest) });
  const node = new FakeNode({ genesis: GENESIS, blocks: blocks(chain), trie, blobs, lie });
  const port = await node.listen();
  const steps = [];
  let error = null;
  try {
    const asked = {
      host: '127.0.0.1',
      port,
      genesis: GENESIS,
      secret: OURS,
      trust: null,
      headers: 2,
      follow: 0,
      shard: 0,
      ...settings,
    };
    await run(asked, (step, facts) => steps.push({ step, ...facts }));
  } catch (caught) {
    error = caught;
  }
  await node.close();
  return { steps, error, goodbyes: node.goodbyes, of: (name) => steps.filter(({ step }) => step === name) };
}

async function isRefused(name, options) {
  const { error, goodbyes } = await follow(options);
  assert.equal(error?.name, name, error?.stack ?? 'it was accepted');
  assert.deepEqual(
    goodbyes.map(({ reason }) => reason),
    [5],
  ); // 5.8/5
  assert.equal(goodbyes[0].text.startsWith(name), true);
}

test('an honest node: headers, proofs, the manifest and a shard in several ranges', async () => {
  const { error, of, goodbyes } = await follow();
  assert.equal(error, null, error?.stack);
  assert.deepEqual(
    of('header').map(({ height: at, how }) => [at, how]),
    [
      [1, 'sequential'],
      [2, 'sequential'],
      [BLOCKS, 'skipping'],
    ],
  );
  assert.deepEqual(
    of('licence').map(({ lastVersion }) => lastVersion),
    [3],
  );
  const blocks = blockCount(BASE.chunk.length);
  assert.deepEqual(
    of('blob').map(({ what, blocks: got, requests }) => [what, got, requests]),
    [
      ['manifest', 1, 1],
      ['chunk', blocks, Math.ceil(blocks / 64)],
    ],
  );
  assert.equal(blocks > 64, true);
  assert.deepEqual(
    of('shard').map(({ decodedDigest }) => decodedDigest),
    [contentAddress(BASE.decoded)],
  );
  assert.deepEqual(
    goodbyes.map(({ reason }) => reason),
    [0],
  );
});

test('a header signed by strangers is reached by way of headers between', async () => {
  const keysAt = (height) => ALL_KEYS.slice(height - 1, height + 3); // one comes and one goes with every block
  const { error, of } = await follow({ keysAt, settings: { headers: 0, shard: null } });
  assert.equal(error, null, error?.stack);
  const heights = (name) => of(name).map(({ height: at, how }) => [at, how ?? 'too far']);
  assert.deepEqual(heights('too-far'), Array(2).fill([BLOCKS, 'too far']));
  assert.deepEqual(heights('header'), [
    [3, 'skipping'],
    [5, 'skipping'],
    [BLOCKS, 'sequential'],
  ]);
});

test('a delta is decoded on top of its parent', async () => {
  const { error, of } = await follow({ newest: CHILD });
  assert.equal(error, null, error?.stack);
  assert.deepEqual(
    of('shard').map(({ codec, decodedDigest }) => [codec, decodedDigest]),
    [
      ['planes', contentAddress(BASE.decoded)],
      ['xor-planes', contentAddress(CHILD.decoded)],
    ],
  );
});

test('a stranger has no licence, proven, and asks all the same', async () => {
  const { of } = await follow({ settings: { secret: secretKey(Buffer.alloc(32, 8)) } });
  assert.deepEqual(
    of('licence').map(({ lastVersion }) => lastVersion),
    [null],
  );
});

test('trust may begin at a header that a person names', async () => {
  const honest = await follow({ settings: { headers: 1, shard: null } });
  const { height: at, blockId: id } = honest.of('header')[0];
  const { error, of } = await follow({ settings: { trust: { height: at, id }, headers: 1, shard: null } });
  assert.equal(error, null, error?.stack);
  assert.deepEqual(
    of('header').map(({ how }) => how),
    ['trusted by its id', 'sequential', 'skipping'],
  );
});

const flip = (data, at) => {
  const changed = Buffer.from(data);
  changed[at] ^= 1;
  return changed;
};
const lieAbout = (kind, change) => (of, fields) => (of === kind ? { ...fields, ...change(fields) } : fields);
const second = (lie) => {
  let calls = 0;
  return (of, fields) => (of === Kind.RANGE_REPLY && (calls += 1) === 3 ? lie(of, fields) : fields);
};

test('a header that was not certified is refused', async () => {
  const forge = (change) => ({ blocks: (chain) => chain.map((parts, i) => (i === 1 ? change(parts, chain) : parts)) });
  await isRefused(
    'InvalidLightBlock',
    forge(([header, certificate, set]) => [flip(header, header.length - 1), certificate, set]),
  );
  await isRefused(
    'InvalidLightBlock',
    forge(([header, certificate, set]) => [header, flip(certificate, certificate.length - 1), set]),
  );
  await isRefused(
    'InvalidLightBlock',
    forge(([header, , set], chain) => [header, chain[0][1], set]),
  );
  await isRefused(
    'MalformedMessage',
    forge(([header, certificate, set]) => [header, certificate, flip(set, 10)]),
  );
  await isRefused('InvalidLightBlock', { blocks: (chain) => [chain[1], chain[0], ...chain.slice(2)] });
  await isRefused('MalformedMessage', {
    lie: lieAbout(Kind.HEADERS, ({ headers }) => ({ headers: [...headers, ...headers] })),
  });
});

test('a proof that does not hold is refused', async () => {
  await isRefused('MalformedMessage', {
    lie: lieAbout(Kind.PROOF_REPLY, ({ value }) => ({ value: value && flip(value, value.length - 1) })),
  });
  await isRefused('MalformedMessage', { lie: lieAbout(Kind.PROOF_REPLY, () => ({ value: null })) });
  await isRefused('MalformedMessage', {
    lie: lieAbout(Kind.PROOF_REPLY, ({ proof }) => ({ proof: flip(proof, proof.length - 2) })),
  });
});

test('a range that does not lead to its address is refused', async () => {
  await isRefused('CorruptChunk', {
    lie: second(lieAbout(Kind.RANGE_REPLY, ({ attachment }) => ({ attachment: flip(attachment, 5) }))),
  });
  await isRefused('CorruptChunk', {
    lie: second(lieAbout(Kind.RANGE_REPLY, ({ proof }) => ({ proof: [noise(32), ...proof.slice(1)] }))),
  });
  await isRefused('MalformedMessage', { lie: lieAbout(Kind.RANGE_REPLY, ({ size }) => ({ size: size + 1 })) });
  await isRefused('MalformedMessage', {
    lie: second(lieAbout(Kind.RANGE_REPLY, ({ proof }) => ({ proof: proof.slice(1) }))),
  });
  await isRefused('MalformedMessage', {
    lie: second(lieAbout(Kind.RANGE_REPLY, ({ attachment }) => ({ attachment: attachment.subarray(1) }))),
  });
  await isRefused('MalformedMessage', { lie: lieAbout(Kind.RANGE_REPLY, () => ({ digest: noise(32) })) });
  await isRefused('MalformedMessage', { lie: lieAbout(Kind.RANGE_REPLY, () => ({ firstBlock: 1 })) });
  await isRefused('MalformedMessage', { lie: lieAbout(Kind.RANGE_REPLY, () => ({ status: 1 })) });
  await isRefused('OversizedMessage', { lie: second(lieAbout(Kind.RANGE_REPLY, () => ({ size: 8 * 1024 * 1024 }))) });
});

test('what the peer does not have is an answer, not a fault', async () => {
  const { error, goodbyes } = await follow({ blobs: byAddress([BASE.manifest]) });
  assert.match(error.message, /answered NOT_FOUND/);
  assert.deepEqual(
    goodbyes.map(({ reason }) => reason),
    [0],
  );
  const refusal = (status) =>
    lieAbout(Kind.RANGE_REPLY, () => ({ status, attachment: Buffer.alloc(0), proof: [], size: 0 }));
  const refused = await follow({ lie: refusal(2) });
  assert.match(refused.error.message, /answered NOT_LICENSED/);
  const busy = await follow({ lie: second(refusal(3)) }); // once
  assert.equal(busy.error, null, busy.error?.stack);
  assert.equal(busy.of('blob').at(-1).requests, Math.ceil(blockCount(BASE.chunk.length) / 64) + 1);
  const none = await follow({ settings: { shard: 1 } });
  assert.equal(none.error.name, 'UsageError');
});

test('a proven model that the certified header does not name is not taken', async () => {
  const chain = makeChain(GENESIS, always, BLOCKS, { stateRoot: stateOf(BASE).root, manifest: noise(32) });
  const { error } = await follow({ blocks: () => chain });
  assert.match(error.message, /not the one of the certified header/);
});

test('a node that leaves is no fault of this client, which ends and says so', async () => {
  const { error, goodbyes } = await follow({ lie: (kind, fields) => (kind === Kind.PROOF_REPLY ? LEAVE : fields) });
  assert.match(error.message, /closed the connection/);
  assert.deepEqual(goodbyes, []);
});

test('the example of 8.4: two bf16 elements, 1.0 and -2.0', () => {
  const chunk = Buffer.from('0102000000020000007f800080', 'hex');
  assert.equal(decodePlanes(chunk, [{ dtype: 'bf16', bytes: 4 }]).toString('hex'), '803f00c0');
});
