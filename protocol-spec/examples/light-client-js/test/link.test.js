import assert from 'node:assert/strict';
import { test } from 'node:test';
import { concat, u32 } from '../lib/bytes.js';
import { ephemeralKey, secretKey } from '../lib/ed25519.js';
import { Kind as Handshake, message, Refusal } from '../lib/handshake.js';
import * as limits from '../lib/limits.js';
import { encodeMessage, Kind } from '../lib/messages.js';
import { packet, Sealer, Type } from '../lib/packets.js';
import { DIALLER, dialler, linked, Listener } from './listener.js';
import { noise, refuses } from './support.js';

const STATUS = encodeMessage(Kind.STATUS, { height: 7n });
const BLOB_REPLY = 35;
const blobReply = encodeMessage(BLOB_REPLY, { request: 1n, digest: noise(32), status: 0 });

test('handshake: both sides end with the same keys, however the bytes are cut', () => {
  for (const step of [1, 7, 4096]) {
    const ours = dialler();
    const listener = new Listener();
    const bytes = concat(listener.reply(ours.hello), Buffer.from('rest'));
    let done = null;
    for (let at = 0; done === null; at += step) done = ours.receive(bytes.subarray(at, at + step));
    assert.deepEqual(listener.finish(done.finish).publicKey, DIALLER.public);
    assert.deepEqual(done.keys.sessionId, listener.sessionId);
    assert.deepEqual(done.peer.roles, ['validator']);
    assert.equal('rest'.startsWith(done.rest.toString()), true);
  }
});

test('handshake: what the dialler refuses, and how (4.1 to 4.6)', () => {
  const answer = (options, change, ours = dialler()) => ours.receive(new Listener(options).reply(ours.hello, change));
  const refusal = (reason, step) =>
    assert.throws(step, (error) => error.name === 'HandshakeRefused' && error.refusal.includes(reason));
  refusal('chain-mismatch', () => answer({ network: { chainId: 'other', genesisHash: noise(32) } }));
  refusal('genesis-mismatch', () => answer({ network: { chainId: 'test', genesisHash: noise(32) } }));
  refusal('self-connection', () => answer({ secret: DIALLER }));
  refusal('unexpected-key', () => answer({}, undefined, dialler({ expectedKey: noise(32) })));
  refuses('HandshakeFailed', () => answer({ ephemeral: Buffer.alloc(32) }));
  refuses('HandshakeFailed', () => answer({ ephemeral: ephemeralKey(Buffer.alloc(32, 9)).public }));
  refuses('HandshakeFailed', () => answer({}, (box) => box.subarray(1)));
  const say = (bytes) => () => dialler().receive(bytes);
  refuses('OversizedMessage', say(Buffer.of(0xff, 0xff)));
  refuses('MalformedMessage', say(Buffer.of(1, 0)));
  refuses('UnexpectedMessage', say(Buffer.of(2, 0, 1, 2)));
  refuses('UnexpectedMessage', say(Buffer.of(2, 0, 9, 2)));
  refusal('unsupported-version', say(Buffer.of(2, 0, 2, 3)));
  refuses('MalformedMessage', say(Buffer.of(2, 0, 2, 2)));
  const full = message(Handshake.REFUSAL, Refusal, { reason: 'too-many-peers', ours: '', theirs: '\u001b[2J' });
  assert.throws(say(full), /the peer refuses us: too-many-peers: it has , we have \?\[2J/);
});

test('link: nothing is sent before the first packet, which must be PING or GOODBYE (5.9)', () => {
  const { link, listener } = linked();
  link.send(Kind.HEADERS_REQUEST, encodeMessage(Kind.HEADERS_REQUEST, { request: 1n, fromHeight: 1n, count: 1 }));
  const [frame] = listener.read(link.takeOutput());
  assert.equal(frame.header.kind, Kind.HEADERS_REQUEST);
  assert.equal(frame.header.stream, 1);
  link.isTakenIn = false; // as if the first packet were still under way
  link.send(Kind.PROOF_REQUEST, encodeMessage(Kind.PROOF_REQUEST, { request: 1n, key: Buffer.alloc(0) }));
  assert.deepEqual(link.takeOutput(), []);
  refuses('UnexpectedMessage', () => link.receive(listener.seal(packet.pong(0n)), 0));
});

test('link: messages arrive whole, with attachments, compressed, between other packets', () => {
  const { link, listener } = linked();
  const attachment = noise(100_000);
  const [head, ...rest] = listener.frame(BLOB_REPLY, 2, blobReply, { attachment, part: 9_999 });
  const status = listener.frame(Kind.STATUS, 0, STATUS);
  const events = link.receive(listener.seal(head, rest.slice(0, 4), status, packet.ping(3n), rest.slice(4)), 0);
  assert.deepEqual(
    events.map(({ kind }) => kind),
    [Kind.STATUS, BLOB_REPLY],
  );
  assert.equal(events[0].message.height, 7n);
  assert.deepEqual(events[1].attachment, attachment);
  const answers = listener.read(link.takeOutput());
  assert.deepEqual(
    answers.filter(({ type }) => type === Type.PONG).map(({ nonce }) => nonce),
    [3n],
  );
  assert.equal(
    answers.some(({ type, stream }) => type === Type.CREDIT && stream === 2),
    true,
  );
});

test('link: what breaks a rule of frames is refused by its name (5.2, 5.3)', () => {
  const cases = [
    ['MalformedMessage', (l) => l.frame(Kind.STATUS, 0, STATUS, { change: { magic: 'XX' } })],
    ['MalformedMessage', (l) => l.frame(Kind.STATUS, 0, STATUS, { change: { version: 1 } })],
    ['MalformedMessage', (l) => l.frame(Kind.STATUS, 0, STATUS, { change: { flags: 2 } })],
    ['MalformedMessage', (l) => l.frame(Kind.STATUS, 0, STATUS, { change: { flags: 1 } })],
    ['MalformedMessage', (l) => l.frame(Kind.STATUS, 0, STATUS, { change: { sequence: 1n } })],
    ['MalformedMessage', (l) => l.frame(Kind.STATUS, 0, STATUS, { change: { bodyBytes: 3 } })],
    ['OversizedMessage', (l) => l.frame(Kind.STATUS, 0, STATUS, { change: { sentBytes: limits.BODY_BYTES_MAX + 1 } })],
    ['OversizedMessage', (l) => l.frame(Kind.STATUS, 0, STATUS, { change: { bodyBytes: 0xffffffff } })],
    [
      'OversizedMessage',
      (l) => l.frame(BLOB_REPLY, 2, blobReply, { change: { attachmentBytes: limits.ATTACHMENT_BYTES_MAX + 1 } }),
    ],
    ['BadSignature', (l) => l.frame(Kind.STATUS, 0, STATUS, { change: { signer: DIALLER } })],
    ['BadSignature', (l) => l.frame(Kind.STATUS, 0, STATUS, { change: { plainBody: blobReply } })],
    ['CorruptAttachment', (l) => l.frame(BLOB_REPLY, 2, blobReply, { attachment: noise(9), digest: noise(32) })],
    ['MalformedMessage', (l) => l.frame(Kind.STATUS, 0, Buffer.from('9101ff', 'hex'))],
    ['MalformedMessage', (l) => l.frame(Kind.STATUS, 0, Buffer.from('91cc05', 'hex'))],
    ['MalformedMessage', (l) => l.frame(Kind.STATUS, 1, STATUS)],
    ['MalformedMessage', (l) => l.frame(BLOB_REPLY, 0, blobReply)],
    ['MalformedMessage', (l) => l.frame(BLOB_REPLY, 3, blobReply)],
    ['MalformedMessage', (l) => l.frame(Kind.STATUS, 0, STATUS, { attachment: noise(9) })],
    [
      'MalformedMessage',
      (l) => [
        ...l.frame(BLOB_REPLY, 2, blobReply, { attachment: noise(9), part: 5 }).slice(0, 2),
        concat(Buffer.of(2), u32(2), noise(5)),
      ],
    ],
    ['UnexpectedMessage', () => [concat(Buffer.of(2), u32(2), noise(5))]],
    ['UnexpectedMessage', () => [concat(Buffer.of(2), u32(0), noise(5))]],
    ['UnknownKind', (l) => l.frame(999, 0, STATUS)],
    ['MalformedMessage', (l) => [concat(l.frame(Kind.STATUS, 0, STATUS)[0], Buffer.of(0))]],
    ['CreditExceeded', (l) => l.frame(BLOB_REPLY, 2, blobReply, { attachment: noise(70_000), part: 65_536 })],
  ];
  for (const [name, plains] of cases) {
    const { link, listener } = linked();
    refuses(name, () => {
      if (name === 'CreditExceeded') link.giveCredit = () => {};
      link.receive(listener.seal(plains(listener)), 0);
    });
  }
  const { link, listener } = linked();
  assert.deepEqual(link.receive(listener.seal(listener.frame(999, 1, STATUS), listener.frame(999, 2, STATUS)), 0), []); // 5.3/9
});

test('link: what breaks a rule of packets is refused by its name (5.1, 5.4, 5.7, 5.8)', () => {
  const cases = [
    ['MalformedMessage', Buffer.of(9)],
    ['MalformedMessage', Buffer.of(0)],
    ['MalformedMessage', concat(packet.ping(1n), Buffer.of(0))],
    ['MalformedMessage', Buffer.of(Type.REKEY, 0)],
    ['MalformedMessage', concat(Buffer.of(Type.DATA), u32(2))],
    ['MalformedMessage', Buffer.of(Type.GOODBYE, 0)],
    ['MalformedMessage', Buffer.of(Type.GOODBYE, 0, 0, 0xc3, 0x28)],
    ['MalformedMessage', concat(Buffer.of(Type.GOODBYE, 0, 0), Buffer.alloc(201, 65))],
    ['MalformedMessage', packet.credit(2, 1n << 40n)],
    ['MalformedMessage', packet.credit(1, 5n)],
    ['MalformedMessage', packet.streams(3)],
    ['UnexpectedMessage', packet.pong(99n)],
  ];
  for (const [name, plain] of cases) {
    const { link, listener } = linked();
    refuses(name, () => link.receive(listener.seal(plain), 0));
  }
  const { link, listener } = linked();
  for (let n = 1; n < limits.PING_BURST_MAX; n += 1) link.receive(listener.ping(), 0);
  refuses('RateExceeded', () => link.receive(listener.ping(), 0.1));
  assert.deepEqual(linked().link.receive(Buffer.alloc(3), 0), []);
  refuses('OversizedMessage', () => linked().link.receive(u32(limits.PACKET_BYTES_MAX + 1), 0));
  refuses('MalformedMessage', () => linked().link.receive(u32(0), 0));
  refuses('TamperedFrame', () => linked().link.receive(concat(u32(9), Buffer.alloc(41)), 0));
});

test('link: keys change in both directions, and none is used up (5.6)', () => {
  const { link, listener } = linked();
  const sealed = listener.sealer.sealRekey();
  assert.deepEqual(link.receive(concat(sealed, listener.seal(listener.frame(Kind.STATUS, 0, STATUS))), 0).length, 1);
  listener.sealer.isExhausted = () => false;
  link.opener.packets = limits.REKEY_PACKETS - 1;
  link.receive(listener.ping(), 0);
  refuses('KeyExhausted', () => link.receive(listener.ping(), 0));
  const sealer = new Sealer(noise(32));
  sealer.packets = limits.REKEY_PACKETS - 2;
  sealer.seal(packet.ping(1n));
  assert.equal(sealer.packets, limits.REKEY_PACKETS - 1);
  sealer.seal(packet.ping(2n));
  assert.equal(sealer.packets, 1);
  assert.equal(sealer.number, 3n);
});

test('link: bulk streams are counted, and more are allowed as they end (5.3)', () => {
  const { link, listener } = linked();
  for (let stream = 2; stream < 200; stream += 1) {
    assert.equal(link.receive(listener.seal(listener.frame(BLOB_REPLY, stream, blobReply)), 0).length, 1);
  }
  const raised = listener
    .read(link.takeOutput())
    .filter(({ type }) => type === Type.STREAMS)
    .map(({ limit }) => limit);
  assert.equal(
    raised.every((limit, i) => i === 0 || limit > raised[i - 1]),
    true,
  );
  const open = (stream) => listener.frame(BLOB_REPLY, stream, blobReply, { attachment: noise(9) })[0];
  const limit = raised.at(-1);
  for (let stream = 200; stream < limit; stream += 1) link.receive(listener.seal(open(stream)), 0);
  refuses('StreamLimitExceeded', () => link.receive(listener.seal(open(limit)), 0));
});

test('link: requests wait for credit, and a silent peer is asked and then given up (5.4, 5.7)', () => {
  const { link, listener } = linked();
  const body = encodeMessage(Kind.PROOF_REQUEST, { request: 1n, key: Buffer.alloc(128) });
  const asked = () => listener.read(link.takeOutput()).filter(({ type }) => type === Type.FRAME).length;
  for (let n = 0; n < 4000; n += 1) link.send(Kind.PROOF_REQUEST, body);
  const sent = Math.floor(limits.STREAM_CREDIT_BYTES / (limits.FRAME_CHARGE_BYTES + body.length));
  assert.equal(asked(), sent);
  link.receive(listener.seal(packet.credit(1, BigInt(2 * limits.STREAM_CREDIT_BYTES))), 0);
  assert.equal(asked(), 4000 - sent);
  link.tick(limits.PING_INTERVAL_S - 1);
  link.pings = [];
  link.tick(limits.PING_INTERVAL_S);
  assert.deepEqual(
    listener.read(link.takeOutput()).map(({ type }) => type),
    [Type.PING],
  );
  refuses('LinkTimeout', () => link.tick(limits.LINK_IDLE_TIMEOUT_S));
});

test('link: goodbye is the last word of either side (5.8)', () => {
  const { link, listener } = linked();
  const [event, ...more] = link.receive(listener.seal(packet.goodbye(77, 'bye'), packet.ping(1n)), 0);
  assert.deepEqual([event, more], [{ type: 'goodbye', reason: 77, text: 'bye' }, []]);
  const other = linked();
  other.link.goodbye(5, `MalformedMessage: ${'x'.repeat(500)}`);
  other.link.goodbye(5, 'again');
  assert.deepEqual(
    other.listener.read(other.link.takeOutput()).map(({ type }) => type),
    [Type.GOODBYE],
  );
});

test('secret keys are read from their seeds', () => {
  assert.equal(
    secretKey(Buffer.alloc(32)).public.toString('hex'),
    '3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29',
  );
});
