// The only file with a socket: carries bytes between a TCP connection, the handshake and the link, keeps the time
// limits, and matches replies with requests.

import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { LocalError, RemoteError } from './errors.js';
import { Dialler, printable } from './handshake.js';
import * as limits from './limits.js';
import { Link, Reason, reasonName } from './link.js';
import { encodeMessage, Kind, replyKindOf } from './messages.js';

const REQUEST_TIMEOUT_S = 20;
const BLOCK_TIMEOUT_S = 60;
const nowS = () => performance.now() / 1000;

/** A promise with its two ends outside. */
function pending() {
  const ends = {};
  ends.promise = new Promise((resolve, reject) => Object.assign(ends, { resolve, reject }));
  ends.promise.catch(() => {}); // it may fail before anybody waits for it
  return ends;
}

export class Connection {
  /** Connect, shake hands, and wait until the listener takes us in. `identity` is as for `Dialler`. */
  static async dial(host, port, identity) {
    const connection = new Connection(host, port, identity);
    await connection.established.promise;
    return connection;
  }

  constructor(host, port, identity) {
    this.remote = `${host}:${port}`;
    this.secret = identity.secret;
    this.dialler = new Dialler({ ...identity, ephemeralSecret: randomBytes(32), nonce: randomBytes(32) });
    this.link = null;
    this.peer = null;
    this.peerHeight = 0;
    this.established = pending();
    this.over = pending();
    this.waiting = new Map(); // request -> {kind, resolve, reject}
    this.heightWaiters = [];
    this.lastRequest = 0;
    this.socket = connect({ host, port });
    this.socket.setNoDelay(true);
    this.deadline = this.failAfter(limits.DIAL_TIMEOUT_S, 'no connection');
    this.socket.on('connect', () => this.begin());
    this.socket.on('data', (data) => this.guard(() => this.take(data)));
    this.socket.on('error', (error) => this.fail(new LocalError(`${this.remote}: ${error.message}`)));
    this.socket.on('close', () => this.fail(new LocalError(`${this.remote} closed the connection`)));
  }

  failAfter(seconds, what) {
    return setTimeout(() => this.fail(new LocalError(`${this.remote}: ${what} within ${seconds} s`)), seconds * 1000);
  }

  begin() {
    clearTimeout(this.deadline);
    this.deadline = this.failAfter(limits.HANDSHAKE_TIMEOUT_S, 'no complete handshake'); // 4.5/2
    this.socket.write(this.dialler.hello);
  }

  /** Run a step; what the peer did wrong ends the connection, with the reason told where the protocol says so. */
  guard(step) {
    try {
      step();
      this.flush();
    } catch (error) {
      if (!error.isRemote) throw error;
      if (error.refusal) this.socket.write(error.refusal); // 4.6/1
      this.link?.goodbye(Reason.PROTOCOL_ERROR, `${error.name}: ${error.message}`); // 5.8/5
      this.flush();
      this.fail(error);
    }
  }

  flush() {
    for (const bytes of this.link?.takeOutput() ?? []) this.socket.write(bytes);
  }

  take(data) {
    let rest = data;
    if (this.link === null) {
      const done = this.dialler.receive(data);
      if (done === null) return;
      this.socket.write(done.finish);
      this.peer = done.peer;
      const { toListener: send, toDialler: receive, sessionId } = done.keys;
      this.link = new Link({ send, receive, sessionId, secretKey: this.secret, peerKey: done.peer.publicKey }, nowS());
      rest = done.rest;
    }
    if (this.link.isOver) return;
    for (const event of this.link.receive(rest, nowS())) this.act(event);
    if (this.link.isTakenIn && !this.ticking) {
      clearTimeout(this.deadline);
      this.ticking = setInterval(() => this.guard(() => this.link.tick(nowS())), 1000);
      this.guard(() => this.link.send(Kind.PEERS, encodeMessage(Kind.PEERS, { addresses: [] }))); // 6.3
      this.established.resolve();
    }
  }

  act(event) {
    if (event.type === 'goodbye') {
      const text = printable(event.text);
      this.fail(new LocalError(`${this.remote} said goodbye: ${reasonName(event.reason)}${text && `: ${text}`}`));
      return;
    }
    const { message } = event;
    if (event.kind === Kind.STATUS) this.takeHeight(message.height);
    const waiting = message.request === undefined ? undefined : this.waiting.get(message.request);
    // A reply that nobody waits for is late, not wrong (6.1/4); gossip is not for us (6.3/1).
    if (waiting?.kind !== event.kind) return;
    this.waiting.delete(message.request);
    waiting.resolve({ ...message, attachment: event.attachment });
  }

  takeHeight(height) {
    this.peerHeight = Number(height); // a reason to ask, no more (6.4/4)
    for (const waiter of this.heightWaiters) if (this.peerHeight >= waiter.height) waiter.resolve();
    this.heightWaiters = this.heightWaiters.filter((waiter) => this.peerHeight < waiter.height);
  }

  /** Wait until the peer says that its chain has reached a height. */
  async reached(height, timeoutS = BLOCK_TIMEOUT_S) {
    if (this.peerHeight >= height) return;
    const waiter = { height, ...pending() };
    this.heightWaiters.push(waiter);
    await this.within(timeoutS, `no block ${height}`, waiter);
  }

  /** Send a request and wait for its reply: the message's fields and `attachment`. */
  async request(kind, fields) {
    this.lastRequest += 1;
    const waiter = { kind: replyKindOf(kind), ...pending() };
    this.waiting.set(BigInt(this.lastRequest), waiter);
    this.guard(() => this.link.send(kind, encodeMessage(kind, { request: this.lastRequest, ...fields })));
    return this.within(REQUEST_TIMEOUT_S, 'no reply', waiter);
  }

  async within(seconds, what, waiter) {
    const timer = setTimeout(
      () => waiter.reject(new LocalError(`${this.remote}: ${what} within ${seconds} s`)),
      seconds * 1000,
    );
    try {
      return await Promise.race([waiter.promise, this.over.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** End the connection for a reason that is told to whoever waits. */
  fail(error) {
    clearTimeout(this.deadline);
    clearInterval(this.ticking);
    this.established.reject(error);
    this.over.reject(error);
    this.socket.end();
    this.socket.destroySoon();
  }

  /** Tell the peer that it broke a rule which only the caller could see, and end. */
  blame(error) {
    this.guard(() => {
      throw error instanceof RemoteError ? error : new RemoteError('MalformedMessage', error.message);
    });
  }

  /** Say goodbye and close (5.8/1). */
  async close() {
    if (this.link) {
      this.link.goodbye(Reason.SHUTTING_DOWN, '');
      this.flush();
    }
    this.fail(new LocalError('closed'));
    if (!this.socket.closed) await new Promise((resolve) => this.socket.once('close', resolve));
  }
}
