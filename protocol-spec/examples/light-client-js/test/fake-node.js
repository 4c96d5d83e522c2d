// A node in JavaScript over TCP, as far as the client asks anything of it: it serves a made-up chain of its own, its state
// and its blobs, and lies where a test says so.

import { createServer } from 'node:net';
import { taggedHash } from '../lib/blake3.js';
import { addressOf, secretKey, sign } from '../lib/ed25519.js';
import { genesisHash } from '../lib/genesis.js';
import { blockId, Header } from '../lib/light.js';
import { decodeMessage, encodeMessage, Kind } from '../lib/messages.js';
import { encode } from '../lib/msgpack.js';
import { packet, Type } from '../lib/packets.js';
import { blockCount, BLOCK_BYTES, proveRange, rangeBytes } from '../lib/ranges.js';
import { Proof } from '../lib/state.js';
import { CommitCertificate, PRECOMMIT, ValidatorSet, validatorsHash, voteSignBytes } from '../lib/validators.js';
import { Listener } from './listener.js';

const FIRST_BULK = 2;
const BULK_CREDIT = 65_792;
const DATA_BYTES = 65_536;
/** What `lie` gives for a node that leaves without a word. */
export const LEAVE = Symbol('leave');

/** A state tree over a Map of keys (latin1) and values (10.6), with proofs. */
export class Trie {
  constructor(entries) {
    this.entries = [...entries].map(([key, value]) => {
      const path = taggedHash('trie key', Buffer.from(key, 'latin1'));
      return { path, value, valueHash: taggedHash('trie value', value) };
    });
    this.root = this.hash(this.entries);
  }

  bit = (path, i) => (path[i >> 3] >> (7 - (i & 7))) & 1;

  branch(entries) {
    for (let i = 0; ; i += 1) {
      const right = entries.filter(({ path }) => this.bit(path, i));
      if (right.length > 0 && right.length < entries.length)
        return { i, right, left: entries.filter(({ path }) => !this.bit(path, i)) };
    }
  }

  hash(entries) {
    if (entries.length === 0) return taggedHash('trie empty');
    if (entries.length === 1) return taggedHash('trie leaf', entries[0].path, entries[0].valueHash);
    const { i, left, right } = this.branch(entries);
    return taggedHash('trie branch', Buffer.of(0, i), this.hash(left), this.hash(right));
  }

  /** {value, proof} of a key, present or not. */
  prove(key) {
    const path = taggedHash('trie key', key);
    const steps = [];
    let entries = this.entries;
    while (entries.length > 1) {
      const { i, left, right } = this.branch(entries);
      const [taken, other] = this.bit(path, i) ? [right, left] : [left, right];
      steps.push({ bit: i, sibling: this.hash(other) });
      entries = taken;
    }
    const [found] = entries;
    if (found?.path.equals(path)) return { value: found.value, proof: { steps, other: null } };
    return { value: null, proof: { steps, other: found ? { path: found.path, valueHash: found.valueHash } : null } };
  }
}

/** Light blocks 1 to `count` after genesis; `keysAt(height)` sign. `stateRoot` and `manifest` are those of all. */
export function makeChain(genesis, keysAt, count, { stateRoot, manifest }) {
  const setAt = (height) => ({
    validators: keysAt(height)
      .map((key) => ({ address: addressOf(key.public), publicKey: key.public, power: 10n }))
      .sort((a, b) => Buffer.compare(a.address, b.address)),
  });
  const blocks = [];
  let parentId = genesisHash(genesis);
  for (let height = 1; height <= count; height += 1) {
    const set = setAt(height);
    const header = {
      version: 1,
      chainId: genesis.chainId,
      height: BigInt(height),
      timeMs: genesis.timeMs + BigInt(height),
      parentId,
      proposer: set.validators[0].address,
      lastCommitHash: Buffer.alloc(32),
      transactionsRoot: Buffer.alloc(32),
      stateRoot,
      receiptsRoot: Buffer.alloc(32),
      validatorsHash: validatorsHash(set),
      nextValidatorsHash: validatorsHash(setAt(height + 1)),
      manifest,
      onionPreimage: Buffer.alloc(32),
    };
    parentId = blockId(header);
    const vote = { height: header.height, round: 0, blockId: parentId };
    const signed = voteSignBytes(genesis.chainId, { kind: PRECOMMIT, validRound: -1, ...vote });
    const byAddress = new Map(keysAt(height).map((key) => [addressOf(key.public).toString('hex'), key]));
    const signatures = set.validators.map(({ address }) => ({
      validator: address,
      signature: sign(byAddress.get(address.toString('hex')), 'vote', signed),
    }));
    blocks.push([
      encode(header, Header),
      encode({ ...vote, signatures }, CommitCertificate),
      encode(set, ValidatorSet),
    ]);
  }
  return blocks;
}

/** One link of the fake node. */
class Session {
  constructor(socket, node) {
    Object.assign(this, {
      socket,
      node,
      received: Buffer.alloc(0),
      isUp: false,
      nextBulk: FIRST_BULK,
      limits: new Map(),
      queued: new Map(),
    });
    this.listener = new Listener({ secret: node.secret, network: node.network });
    socket.on('data', (data) => this.take(data));
    socket.on('error', () => {}); // the client may leave as it likes
  }

  take(data) {
    this.received = Buffer.concat([this.received, data]);
    while (!this.isUp && this.received.length >= 2 && this.received.length >= 2 + this.received.readUInt16LE(0)) {
      const message = this.received.subarray(0, 2 + this.received.readUInt16LE(0));
      this.received = this.received.subarray(message.length);
      if (message[2] === 1) this.socket.write(this.listener.reply(message));
      if (message[2] !== 3) continue;
      this.listener.finish(message);
      this.isUp = true;
      this.socket.write(this.listener.ping());
      this.send(Kind.STATUS, 0, encodeMessage(Kind.STATUS, { height: BigInt(this.node.blocks.length) }));
    }
    if (!this.isUp) return;
    for (const got of this.listener.read([this.received.subarray(0)])) this.act(got);
    this.received = Buffer.alloc(0);
  }

  act(got) {
    if (got.type === Type.PING) this.socket.write(this.listener.seal(packet.pong(got.nonce)));
    if (got.type === Type.GOODBYE) this.node.goodbyes.push(got);
    if (got.type === Type.CREDIT && got.stream >= FIRST_BULK) {
      this.limits.set(got.stream, Number(got.limit));
      this.drain(got.stream);
    }
    if (got.type !== Type.FRAME) return;
    const { kind } = got.header;
    const answer = this.node.answer(kind, decodeMessage(kind, got.part));
    if (answer === LEAVE) this.socket.destroy();
    else if (answer) this.send(...answer);
  }

  send(kind, stream, body, attachment = Buffer.alloc(0)) {
    const number = stream === FIRST_BULK ? this.nextBulk : stream;
    const plains = this.listener.frame(kind, number, body, { attachment, part: DATA_BYTES / 2 });
    if (stream !== FIRST_BULK) {
      this.socket.write(this.listener.seal(plains));
      return;
    }
    this.nextBulk += 1;
    this.limits.set(number, BULK_CREDIT);
    this.queued.set(number, { sent: 256 + body.length, plains: plains.slice(1) });
    this.socket.write(this.listener.seal(plains[0]));
    this.drain(number);
  }

  drain(number) {
    const queue = this.queued.get(number);
    while (queue.plains.length > 0 && queue.sent + queue.plains[0].length - 5 <= this.limits.get(number)) {
      const [plain] = queue.plains.splice(0, 1);
      queue.sent += plain.length - 5;
      this.socket.write(this.listener.seal(plain));
    }
  }
}

/** A listening fake node. `lie(kind, fields)` may change what it answers: fields of a reply, with `attachment`. */
export class FakeNode {
  constructor({ genesis, blocks, trie, blobs, lie = (_, fields) => fields }) {
    Object.assign(this, {
      blocks,
      trie,
      lie,
      goodbyes: [],
      network: { chainId: genesis.chainId, genesisHash: genesisHash(genesis) },
    });
    this.secret = secretKey(Buffer.alloc(32, 77));
    this.blobs = blobs; // by their addresses in hexadecimal
    this.server = createServer((socket) => new Session(socket, this));
  }

  /** The port it listens on. */
  listen() {
    return new Promise((resolve) => this.server.listen(0, '127.0.0.1', () => resolve(this.server.address().port)));
  }

  close() {
    return new Promise((resolve) => this.server.close(resolve));
  }

  answer(kind, { request, ...asked }) {
    if (kind === Kind.HEADERS_REQUEST) {
      const from = Number(asked.fromHeight) - 1;
      return this.gossip(Kind.HEADERS, { request, headers: this.blocks.slice(from, from + asked.count) });
    }
    if (kind === Kind.PROOF_REQUEST) {
      const { value, proof } = this.trie.prove(asked.key);
      return this.gossip(Kind.PROOF_REPLY, {
        request,
        height: BigInt(this.blocks.length),
        value,
        proof: encode(proof, Proof),
      });
    }
    if (kind !== Kind.RANGE_REQUEST) return null;
    const { attachment, ...fields } = this.lie(Kind.RANGE_REPLY, { request, ...this.range(asked) });
    return [Kind.RANGE_REPLY, FIRST_BULK, encodeMessage(Kind.RANGE_REPLY, fields), attachment];
  }

  gossip(kind, fields) {
    const told = this.lie(kind, fields);
    return told === LEAVE ? LEAVE : [kind, 1, encodeMessage(kind, told)];
  }

  range({ digest, firstBlock, blockCount: most }) {
    const blob = this.blobs.get(digest.toString('hex'));
    if (!blob) return { digest, status: 1, size: 0, firstBlock: 0, proof: [], attachment: Buffer.alloc(0) };
    const count = Math.min(most, blockCount(blob.length) - firstBlock);
    const start = firstBlock * BLOCK_BYTES;
    return {
      digest,
      status: 0,
      size: blob.length,
      firstBlock,
      proof: proveRange(blob, firstBlock, count),
      attachment: blob.subarray(start, start + rangeBytes(blob.length, firstBlock, count)),
    };
  }
}
