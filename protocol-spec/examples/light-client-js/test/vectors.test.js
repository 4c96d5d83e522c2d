// The vectors of protocol-spec/vectors: each case is accepted or refused as it says, by the error's name.

import assert from 'node:assert/strict';
import { addressOf, formatAddress, messageOf, parseAddress, secretKey, verify } from '../lib/ed25519.js';
import { RemoteError, UsageError } from '../lib/errors.js';
import { expand, taggedHash } from '../lib/blake3.js';
import { u64 } from '../lib/bytes.js';
import { decodeLightBlock, Header, blockId, verifySequential, verifySkipping } from '../lib/light.js';
import { merkleRoot, verifyMerkle } from '../lib/merkle.js';
import { bytes, decode, encode, list, optional, record } from '../lib/msgpack.js';
import { blockCount, contentAddress, proveRange, treeRoot, verifyRange } from '../lib/ranges.js';
import { decodeProof, verifyState } from '../lib/state.js';
import {
  CommitCertificate,
  decodeValidators,
  holdsHonest,
  isQuorum,
  totalPower,
  validatorsHash,
  verifyCertificate,
  voteSignBytes,
} from '../lib/validators.js';
import { Trie } from './fake-node.js';
import { eachVector, fieldsOf, flat, plain, positional, skipped, unspell, tellUnread } from './support.js';
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
  if (!verify(unspell(each.public_key), each.tag, payload, unspell(each.signature)))
    throw new RemoteError('BadSignature', 'refused');
});

/** The pattern of blake3.md: byte i is (i + seed) mod 251. */
function pattern(from, length, seed = 0) {
  const data = Buffer.alloc(length);
  for (let i = 0; i < length; i += 1) data[i] = (from + i + seed) % 251;
  return data;
}

/** Draws from a stream (1.4/3): {drawn, bytesRead}. */
function draw(seed, tag, bounds) {
  let [stream, position, part] = [Buffer.alloc(0), 0, 0n];
  const next = () => {
    if (position + 8 > stream.length)
      stream = Buffer.concat([stream, expand(Buffer.concat([seed, u64(part++)]), tag, 1024)]); // 1.4/2
    position += 8;
    return stream.readBigUInt64LE(position - 8);
  };
  const drawn = bounds.map((bound) => {
    const n = BigInt(bound);
    for (;;) {
      const x = next();
      if (x < 2n ** 64n - (2n ** 64n % n)) return x % n;
    }
  });
  return { drawn, bytesRead: position };
}

const HASHES = {
  tagged_hash: (each) => ({ digest: taggedHash(each.tag, ...each.parts.map(unspell)) }),
  expand: (each) => ({ output: expand(unspell(each.seed), each.tag, each.length) }),
  draw(each) {
    const { drawn, bytesRead } = draw(unspell(each.seed), each.tag, each.below);
    return { drawn, bytes_read: bytesRead };
  },
  content(each) {
    const data = pattern(0, each.size, each.pattern_seed);
    return { blocks: blockCount(each.size), root: treeRoot(data), digest: contentAddress(data) };
  },
  range(each) {
    const { size, first_block: first, block_count: count, data_from: from, data_bytes: length } = each;
    const proof = each.proof.map(unspell);
    verifyRange({
      address: unspell(each.digest),
      size: Number(size),
      first,
      count,
      bytes: pattern(from, length),
      proof,
    });
    return { proof: proveRange(pattern(0, size), first, count) };
  },
};

eachVector('blake3', (each) => {
  for (const [field, value] of Object.entries(HASHES[each.operation](each)))
    assert.deepEqual(plain(value), each[field], field);
});

/** A record that a vector writes as an object, in the form that the client has. */
const setOf = (validators) => ({
  validators: validators.map((each) => ({
    address: unspell(each.address),
    publicKey: unspell(each.public_key),
    power: BigInt(each.power),
  })),
});

eachVector('certificates', (each, { chain_id: chainId }) => {
  if (each.operation === 'set') {
    const set = decodeValidators(unspell(each.encoded));
    assert.deepEqual(plain(set.validators), each.validators);
    assert.deepEqual([plain(totalPower(set)), plain(validatorsHash(set))], [each.total_power, each.hash]);
  } else if (each.operation === 'thresholds') {
    const set = { validators: [{ power: BigInt(each.total_power) }] };
    for (const [rule, least] of [
      [isQuorum, each.least_quorum],
      [holdsHonest, each.least_honest],
    ]) {
      assert.deepEqual([rule(set, BigInt(least)), rule(set, BigInt(least) - 1n)], [true, false]);
    }
  } else {
    const encoded = unspell(each.encoded);
    const certificate = decode(encoded, CommitCertificate, 32_768);
    assert.deepEqual(plain(certificate), each.certificate);
    verifyCertificate(chainId, setOf(each.validators), certificate, unspell(each.block_id), BigInt(each.height));
    assert.equal(plain(taggedHash('commit certificate', encoded)), each.hash);
  }
});

const trustOf = (each) => ({
  chainId: each.chain_id,
  height: BigInt(each.height),
  blockId: unspell(each.block_id),
  timeMs: BigInt(each.time_ms),
  validators: setOf(each.validators.validators),
  nextValidatorsHash: unspell(each.next_validators_hash),
});

eachVector('light', (each) => {
  const block = decodeLightBlock([each.header, each.certificate, each.validators].map(unspell));
  const rule = { sequential: verifySequential, skipping: verifySkipping }[each.rule];
  const { header, ...then } = rule(trustOf(each.trusted), block, Number(each.now_ms), Number(each.trusting_period_ms));
  assert.equal(header, block.header);
  assert.deepEqual(plain(then), each.then);
});

eachVector('proofs', (each) => {
  if (each.operation === 'root') {
    const entries = each.entries.map(([key, value]) => [unspell(key).toString('latin1'), unspell(value)]);
    assert.equal(plain(new Trie(entries).root), each.root);
    return;
  }
  const proof = decodeProof(unspell(each.encoded));
  assert.deepEqual(plain(proof), each.proof);
  verifyState(unspell(each.root), unspell(each.key), each.value === null ? null : unspell(each.value), proof);
});

const anyBytes = bytes(0, 2 ** 24);
const Block = record('Block', {
  header: Header,
  transactions: list(anyBytes),
  lastCommit: optional(CommitCertificate),
});

// A light client doesn't judge blocks. It has to find the same header and id in them.
eachVector('blocks', (each) => {
  if (each.expect !== 'ok') return skipped;
  const { header, transactions, lastCommit } = decode(unspell(each.encoded), Block, 2 ** 24);
  assert.deepEqual(plain(header), each.header);
  assert.equal(plain(blockId(header)), each.block_id);
  assert.deepEqual(merkleRoot(transactions), header.transactionsRoot);
  const hash = lastCommit ? taggedHash('commit certificate', encode(lastCommit, CommitCertificate)) : Buffer.alloc(32);
  assert.deepEqual(hash, header.lastCommitHash);
  return undefined;
});

/** The place of the proposer for a sum of height and round (9.4/1). */
function turn(powers, sum) {
  const total = powers.reduce((all, power) => all + power, 0n);
  const point = (((sum * 0x9e3779b97f4a7c15n) % 2n ** 64n) * total) / 2n ** 64n;
  let reached = 0n;
  return powers.findIndex((power) => (reached += power) > point);
}

/** What a proof-of-lock has to be by itself (9.2/10). */
function checkLockProof(chainId, validators, { height, round, blockId: block, votes }) {
  const refuse = (why) => {
    throw new RemoteError('InvalidLockProof', why);
  };
  const nil = Buffer.alloc(32);
  if (block.equals(nil)) refuse('for nil');
  const members = new Map(validators.map((entry) => [entry.address, entry]));
  let [power, previous] = [0n, ''];
  for (const { validator, validRound, signature } of votes) {
    const address = plain(validator);
    if (address <= previous || !members.has(address) || validRound >= round) refuse(address);
    previous = address;
    power += BigInt(members.get(address).power);
    const signed = voteSignBytes(chainId, { kind: 1, height, round, validRound, blockId: block });
    if (!verify(unspell(members.get(address).public_key), 'vote', signed, signature)) refuse('signature');
  }
  const total = validators.reduce((sum, entry) => sum + BigInt(entry.power), 0n);
  if (3n * power <= 2n * total) refuse('power');
}

eachVector('votes', (each, { chain_id: chainId, validators }) => {
  const keys = new Map(validators.validators.map(({ address, public_key: key }) => [address, unspell(key)]));
  const check = (signer, tag, signed, signature) => {
    assert.equal(plain(signed), each.sign_bytes);
    const key = keys.get(plain(signer));
    if (key === undefined) throw new RemoteError('NotAValidator', plain(signer));
    if (!verify(key, tag, signed, signature)) throw new RemoteError('BadSignature', tag);
  };
  if (each.operation === 'turns') {
    const powers = each.powers.map(BigInt);
    assert.deepEqual(
      each.height_plus_round.map((sum) => turn(powers, BigInt(sum))),
      each.proposers,
    );
  } else if (each.operation === 'vote') {
    const vote = decode(unspell(each.encoded), TYPES.Vote, 512);
    assert.deepEqual(plain(vote), each.vote);
    const named = vote.kind === 1 && !vote.blockId.equals(Buffer.alloc(32)) ? vote.validRound < vote.round : vote.validRound === -1;
    if (!named) throw new RemoteError('InvalidVote', '9.2/9');
    check(vote.validator, 'vote', voteSignBytes(chainId, vote), vote.signature);
  } else if (each.operation === 'lock proof') {
    const proof = decode(unspell(each.encoded), TYPES.LockProof, 32 * 1024);
    assert.deepEqual(plain(proof), each.proof);
    checkLockProof(chainId, validators.validators, proof);
  } else {
    const proposal = decode(unspell(each.encoded), TYPES.Proposal, 512);
    assert.deepEqual(plain(proposal), each.proposal);
    if (proposal.validRound >= proposal.round || proposal.blockId.equals(Buffer.alloc(32)))
      throw new RemoteError('InvalidProposal', '9.2/6');
    const powers = validators.validators.map(({ power }) => BigInt(power));
    const { address } = validators.validators[turn(powers, proposal.height + BigInt(proposal.round))];
    if (keys.has(plain(proposal.proposer)) && plain(proposal.proposer) !== address)
      throw new RemoteError('InvalidProposal', '9.4/1');
    check(proposal.proposer, 'proposal', encode({ chainId, ...proposal }, TYPES.ProposalSignBytes), proposal.signature);
  }
});

// Those are read in other files of this folder, and those judge what a full node does (9 to 11).
tellUnread(['handshake', 'packets', 'frames', 'streams', 'manifests', 'chunks', 'placement']);
