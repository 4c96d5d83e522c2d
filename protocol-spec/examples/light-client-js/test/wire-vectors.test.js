// The vectors of chapters 4 and 5: handshakes, packets, frames and streams.

import assert from 'node:assert/strict';
import { concat } from '../lib/bytes.js';
import { agree, ephemeralKey, secretKey, sign } from '../lib/ed25519.js';
import { RemoteError } from '../lib/errors.js';
import * as handshake from '../lib/handshake.js';
import { Link } from '../lib/link.js';
import { decoderOf } from '../lib/messages.js';
import { decode, encode } from '../lib/msgpack.js';
import { Opener, parsePacket, Sealer, Type } from '../lib/packets.js';
import { eachVector, flat, plain, skipped, unspell } from './support.js';

const { boxKeys, Claims, Dialler, endTranscript, Hello, helloTranscript, linkKeys, replyTranscript } = handshake;

/** A side of a vector as the dialler's settings. */
const diallerOf = (side, expectedKey = null) =>
  new Dialler({
    chainId: side.chain_id,
    genesisHash: unspell(side.genesis_hash),
    secret: secretKey(unspell(side.seed)),
    ephemeralSecret: unspell(side.ephemeral_secret),
    nonce: unspell(side.nonce),
    roles: side.roles,
    listen: side.listen,
    features: side.features,
    expectedKey,
  });

const linkOf = ({ toListener, toDialler, sessionId }, secret, peerKey) =>
  new Link({ send: toListener, receive: toDialler, sessionId, secretKey: secret, peerKey }, 0);

/** Both sides' values of a whole handshake; the listener's by the same formulas. */
function wholeHandshake(each) {
  const dialler = diallerOf(each.dialler);
  const done = dialler.receive(unspell(each.reply));
  const [ours, theirs] = [each.dialler, each.listener].map((side) => ephemeralKey(unspell(side.ephemeral_secret)));
  const shared = agree(ours, theirs.public);
  const reply = decode(unspell(each.reply).subarray(4), handshake.Reply, 1024);
  const boxD = decode(done.finish.subarray(4), handshake.Finish, 1024).box;
  const t0 = helloTranscript(dialler.hello, encode(reply.hello, Hello));
  const t1 = replyTranscript(t0, reply.box);
  const boxes = boxKeys(shared, t0);
  const t2 = endTranscript(t1, boxD);
  const keys = linkKeys(shared, t2);
  assert.deepEqual(done.keys, keys);
  const signed = (side, key, transcript, claims) =>
    sign(secretKey(unspell(key)), `handshake ${side}`, concat(transcript, claims));
  const claims = (side, box, key, transcript) => encode(handshake.openClaims(side, box, key, transcript), Claims);
  const [claimsL, claimsD] = [
    claims('listener', reply.box, boxes.listener, t0),
    claims('dialler', boxD, boxes.dialler, t1),
  ];
  const link = linkOf(keys, dialler.secret, done.peer.publicKey);
  assert.deepEqual(link.receive(unspell(each.first_packet), 0), []);
  assert.equal(link.isTakenIn, true);
  return {
    dialler_ephemeral: ours.public,
    listener_ephemeral: theirs.public,
    hello: dialler.hello,
    shared,
    t0,
    t1,
    t2,
    k_l: boxes.listener,
    k_d: boxes.dialler,
    box_l: reply.box,
    box_d: boxD,
    finish: done.finish,
    listener_claims: claimsL,
    listener_signature: signed('listener', each.listener.seed, t0, claimsL),
    dialler_claims: claimsD,
    dialler_signature: signed('dialler', each.dialler.seed, t1, claimsD),
    to_listener: keys.toListener,
    to_dialler: keys.toDialler,
    session_id: keys.sessionId,
    features: [...new Set(each.dialler.features)].filter((name) => reply.hello.features.includes(name)).sort(),
  };
}

/** What the dialler has sent after HELLO when it ends, and the error it ends with. */
function dial(each, pieces) {
  const dialler = diallerOf(each.local, each.expected_key && unspell(each.expected_key));
  let [sent, link] = [Buffer.alloc(0), null];
  try {
    for (const piece of pieces) {
      let rest = piece;
      if (link === null) {
        const done = dialler.receive(piece);
        if (done === null) continue;
        sent = done.finish;
        link = linkOf(done.keys, dialler.secret, done.peer.publicKey);
        rest = done.rest;
      }
      const [event] = link.receive(rest, 0);
      // GOODBYE as packet 0 is the listener's refusal (4.6/1).
      if (event?.type === 'goodbye') throw new RemoteError('HandshakeRefused', 'packet 0 is GOODBYE');
    }
  } catch (error) {
    return { error, sent: concat(sent, error.refusal ?? Buffer.alloc(0)) };
  }
  return { error: null, sent };
}

eachVector('handshake', (each) => {
  if (each.operation === 'whole') {
    for (const [name, value] of Object.entries(wholeHandshake(each))) assert.deepEqual(plain(value), each[name], name);
    return undefined;
  }
  if (each.side !== 'dialler') return skipped;
  const received = each.received.map(unspell);
  for (const pieces of [received, [...concat(...received)].map((byte) => Buffer.of(byte))]) {
    const { error, sent } = dial(each, pieces);
    assert.equal(plain(sent), flat(each.expect.sent));
    if (error?.name !== each.expect.error) throw error ?? new Error('it was accepted');
    if (each.expect.reason && error.reason) assert.equal(error.reason, each.expect.reason);
  }
  throw new RemoteError(each.expect.error, 'both ways');
});

const fieldsOf = ({ type, ...fields }) => ({
  type: Object.keys(Type).find((name) => Type[name] === type),
  fields: plain(fields),
});

eachVector('packets', (each) => {
  if (each.operation === 'seal') {
    const sealer = new Sealer(unspell(each.key));
    const opener = new Opener(unspell(each.key));
    each.plains.map(unspell).forEach((text, i) => {
      assert.equal(plain(sealer.key), each.keys[i]);
      const isRekey = text.equals(Buffer.of(Type.REKEY));
      const packet = isRekey ? sealer.sealRekey() : sealer.seal(text);
      assert.deepEqual(packet, unspell(each.packets[i]));
      opener.push(packet);
      assert.deepEqual(opener.next(), text);
    });
  } else if (each.operation === 'open') {
    const opener = new Opener(unspell(each.key));
    each.packets.map(unspell).forEach((packet, i) => {
      opener.push(packet);
      if (i < each.opened) assert.notEqual(opener.next(), null);
      else opener.next();
    });
  } else if (each.operation === 'size') {
    const opener = new Opener(Buffer.alloc(32));
    opener.push(unspell(each.prefix));
    assert.equal(opener.next(), null);
  } else {
    assert.deepEqual(fieldsOf(parsePacket(unspell(each.plain))), { type: each.type, fields: flat(each.fields) });
  }
});

/** A link that is up, whose peer is a vector's; packets go in as plain texts. */
function receiver({ sessionId, peerKey }) {
  const keys = {
    send: Buffer.alloc(32),
    receive: Buffer.alloc(32),
    sessionId,
    peerKey,
    secretKey: secretKey(Buffer.alloc(32)),
  };
  const link = new Link(keys, 0);
  link.isTakenIn = true;
  return link;
}

// Of two faults a receiver may name either (13.1/4). This client looks at the signature first, as soon as it can.
const EITHER = new Map([['attachment: another digest, not signed', 'BadSignature']]);

eachVector('frames', (each, shared) => {
  try {
    receiveFrame(each, shared);
  } catch (error) {
    throw error.name === EITHER.get(each.name) ? new RemoteError(each.expect.error, error.message) : error;
  }
});

function receiveFrame(each, shared) {
  const link = receiver({ sessionId: unspell(shared.session_id), peerKey: unspell(shared.signer_public_key) });
  const events = each.plains.map((text) => link.takePacket(parsePacket(unspell(text)), 0)).filter(Boolean);
  if (each.ignored) {
    assert.deepEqual(events, []);
    return;
  }
  const [{ kind, message, attachment, attachmentDigest }] = events;
  assert.equal(kind, each.kind);
  assert.equal(plain(encode(message, decoderOf(kind))), flat(each.body));
  if (each.message) assert.equal(decoderOf(kind).name, each.message);
  if (each.attachment_digest) assert.equal(plain(attachmentDigest), each.attachment_digest);
  assert.equal(attachment.length > 0, attachmentDigest !== null);
}

/** The dialler's key, which its FINISH tells the listener: computed as the listener does. */
function diallerKey({ listener, hello, finish }) {
  const ephemeral = ephemeralKey(unspell(listener.ephemeral_secret));
  const secret = secretKey(unspell(listener.seed));
  const { chain_id: chainId, genesis_hash: genesisHash, nonce, roles, listen, features } = listener;
  const ours = {
    chainId,
    genesisHash: unspell(genesisHash),
    ephemeral: ephemeral.public,
    nonce: unspell(nonce),
    features,
  };
  const t0 = helloTranscript(unspell(hello), encode(ours, Hello));
  const keys = boxKeys(agree(ephemeral, decode(unspell(hello).subarray(4), Hello, 1024).ephemeral), t0);
  const box = handshake.sealClaims('listener', secret, { publicKey: secret.public, roles, listen }, keys.listener, t0);
  const { box: theirs } = decode(unspell(finish).subarray(4), handshake.Finish, 1024);
  return handshake.openClaims('dialler', theirs, keys.dialler, replyTranscript(t0, box)).publicKey;
}

eachVector('streams', (each, shared) => {
  const link = receiver({ sessionId: unspell(shared.session_id), peerKey: diallerKey(shared) });
  link.pings = [1n]; // the listener's first packet
  if (each.finished === false) Object.assign(link, { giveCredit() {}, allowStreams() {} });
  const sealer = new Sealer(Buffer.alloc(32));
  const events = each.plains.flatMap((text) => {
    const bytes = unspell(text);
    return link.receive(bytes.equals(Buffer.of(Type.REKEY)) ? sealer.sealRekey() : sealer.seal(bytes), 0);
  });
  const kinds = events.filter(({ type }) => type === 'message').map(({ kind }) => kind);
  assert.deepEqual(kinds, each.kinds);
  const answers = new Opener(Buffer.alloc(32));
  link.takeOutput().forEach((bytes) => answers.push(bytes));
  const sent = [];
  for (let text; (text = answers.next()) !== null;) sent.push(parsePacket(text));
  if (each.pongs)
    assert.deepEqual(plain(sent.filter(({ type }) => type === Type.PONG).map(({ nonce }) => nonce)), each.pongs);
  if (each.left) {
    const { reason, text } = events.find(({ type }) => type === 'goodbye');
    assert.deepEqual({ reason, text }, each.left);
  }
});
