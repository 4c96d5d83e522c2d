// One link after the handshake, without I/O: bytes in, events and bytes out (chapter 5). Time is an argument, in seconds.
//
// This side is the dialler. It sends small requests on stream 1 only, so of the sender's rules it needs credit for that
// stream; of the receiver's rules it keeps all.

import { malformed, RemoteError, unexpected } from './errors.js';
import { IncomingFrame, packHeader, signFrame } from './frames.js';
import * as limits from './limits.js';
import { classOf, decodeMessage, mayAttach } from './messages.js';
import { Opener, packet, parsePacket, Sealer, Type } from './packets.js';

const CONSENSUS = 0;
const GOSSIP = 1;
const FIRST_BULK = 2;
const HALF = 2;

/** 5.8 */
export const Reason = Object.freeze({ SHUTTING_DOWN: 0, PROTOCOL_ERROR: 5 });
const REASONS = [
  'shutting-down',
  'duplicate-link',
  'banned',
  'too-many-peers',
  'self-connection',
  'protocol-error',
  'overloaded',
  'replaced',
];
export const reasonName = (reason) => REASONS[reason] ?? `reason ${reason}`; // 5.8/4

/** A stream on which payload arrives: what came, what may come, and the frame that is incomplete. */
class Receiving {
  constructor(limit) {
    this.bytes = 0;
    this.limit = limit;
    this.frame = null;
  }
}

/** How often the peer may send PING (5.7/3). */
class PingBudget {
  constructor(now) {
    this.tokens = limits.PING_BURST_MAX;
    this.at = now;
  }

  take(now) {
    this.tokens = Math.min(limits.PING_BURST_MAX, this.tokens + (now - this.at) * limits.PING_RATE_MAX);
    this.at = now;
    if (this.tokens < 1) throw new RemoteError('RateExceeded', 'more PING packets than the burst and rate allow');
    this.tokens -= 1;
  }
}

export class Link {
  /** `keys` come from the handshake: {send, receive, sessionId, secretKey, peerKey}. */
  constructor({ send, receive, sessionId, secretKey, peerKey }, now) {
    this.sealer = new Sealer(send);
    this.opener = new Opener(receive);
    this.sessionId = sessionId;
    this.secretKey = secretKey;
    this.peerKey = peerKey;
    this.isTakenIn = false; // 5.9/1
    this.isOver = false;
    this.output = [];
    this.waiting = []; // frames that wait to be taken in, or for credit
    this.sequence = { sent: 0n, received: 0n };
    this.sent = 0; // payload on stream 1 (5.4)
    this.sendLimits = [BigInt(limits.STREAM_CREDIT_BYTES), BigInt(limits.STREAM_CREDIT_BYTES)];
    this.streamsAllowedToUs = FIRST_BULK + limits.STREAMS_OPEN_MAX;
    this.streams = new Map([
      [CONSENSUS, new Receiving(limits.STREAM_CREDIT_BYTES)],
      [GOSSIP, new Receiving(limits.STREAM_CREDIT_BYTES)],
    ]);
    this.nextBulk = FIRST_BULK;
    this.doneBulk = 0;
    this.streamsAllowed = FIRST_BULK + limits.STREAMS_OPEN_MAX;
    this.pingBudget = new PingBudget(now);
    this.pings = []; // nonces of ours that are unanswered
    this.lastPing = 0n;
    this.heardAt = now;
  }

  // -- out -----------------------------------------------------------------------------------------------------------

  /** Bytes to write now. */
  takeOutput() {
    const output = this.output;
    this.output = [];
    return output;
  }

  sendPacket(plain) {
    this.output.push(this.sealer.seal(plain));
  }

  /** Queue a request: a message of the gossip class whose body fits into one packet. */
  send(kind, body) {
    if (classOf(kind) !== 'gossip' || body.length > limits.DATA_BYTES_MAX)
      throw new RangeError(`cannot send kind ${kind}`);
    this.waiting.push({ kind, body });
    this.flush();
  }

  flush() {
    while (this.isTakenIn && !this.isOver && this.waiting.length > 0) {
      const { kind, body } = this.waiting[0];
      const payload = limits.FRAME_CHARGE_BYTES + body.length;
      if (BigInt(this.sent + payload) > this.sendLimits[GOSSIP]) return; // 5.4/2
      this.waiting.shift();
      this.sent += payload;
      const header = packHeader({ kind, stream: GOSSIP, bodyBytes: body.length, sequence: this.sequence.sent });
      this.sequence.sent += 1n; // 5.2/2
      this.sendPacket(packet.frame(header, signFrame(this.secretKey, this.sessionId, header, body), body));
    }
  }

  ping() {
    if (this.pings.length >= limits.PINGS_UNANSWERED_MAX) return; // 5.7/3
    this.lastPing += 1n;
    this.pings.push(this.lastPing);
    this.sendPacket(packet.ping(this.lastPing));
  }

  /** Say goodbye; nothing is sent after it (5.8/1). */
  goodbye(reason, text) {
    if (this.isOver) return;
    // Before the first packet of the listener a dialler may not send anything, not even this (5.9/1).
    if (this.isTakenIn) this.sendPacket(packet.goodbye(reason, text.slice(0, limits.GOODBYE_BYTES_MAX / 4)));
    this.isOver = true;
  }

  /** Call about once a second: keeps the link alive (5.7/4). Throws RemoteError when the peer has gone silent. */
  tick(now) {
    const silentS = now - this.heardAt;
    if (silentS >= limits.LINK_IDLE_TIMEOUT_S) {
      throw new RemoteError('LinkTimeout', `the peer was silent for ${Math.round(silentS)} s`);
    }
    if (this.isTakenIn && silentS >= limits.PING_INTERVAL_S && this.pings.length === 0) this.ping();
  }

  // -- in ------------------------------------------------------------------------------------------------------------

  /** Take received bytes; gives events {type: 'message', kind, message, attachment} and {type: 'goodbye', reason, text}. */
  receive(data, now) {
    this.heardAt = now;
    this.opener.push(data);
    const events = [];
    for (let plain; !this.isOver && (plain = this.opener.next()) !== null;) {
      const event = this.takePacket(parsePacket(plain), now);
      if (event) events.push(event);
    }
    this.flush();
    return events;
  }

  takePacket(got, now) {
    if (!this.isTakenIn) {
      if (got.type !== Type.PING && got.type !== Type.GOODBYE) throw unexpected(`first packet is of type ${got.type}`); // 5.9/1
      this.isTakenIn = true;
      if (got.type === Type.PING) this.ping(); // 5.9/2
    }
    switch (got.type) {
      case Type.FRAME:
        return this.takeFrame(got);
      case Type.DATA:
        return this.takeData(got);
      case Type.CREDIT:
        return this.takeCredit(got);
      case Type.STREAMS:
        if (got.limit < this.streamsAllowedToUs) throw malformed(`STREAMS lowers the limit to ${got.limit}`); // 5.3/6
        this.streamsAllowedToUs = got.limit;
        return null;
      case Type.PING:
        this.pingBudget.take(now);
        this.sendPacket(packet.pong(got.nonce)); // 5.7/1
        return null;
      case Type.PONG:
        if (this.pings.length === 0 || this.pings[0] !== got.nonce) throw unexpected('PONG without its PING'); // 5.7/2
        this.pings.shift();
        return null;
      case Type.GOODBYE:
        this.isOver = true; // 5.8/2
        return { type: 'goodbye', reason: got.reason, text: got.text };
      default: // REKEY, which the opener has acted on
        return null;
    }
  }

  takeFrame(got) {
    const { header } = got;
    if (header.sequence !== this.sequence.received) {
      throw malformed(`frame ${header.sequence}, expected ${this.sequence.received}`); // 5.2/2
    }
    this.sequence.received += 1n;
    const stream = header.stream >= FIRST_BULK ? this.openBulk(header) : this.openFrame(header);
    stream.frame = new IncomingFrame(got);
    this.charge(header.stream, stream, limits.FRAME_CHARGE_BYTES);
    return this.takePayload(header.stream, stream, got.part);
  }

  openFrame({ stream, kind, attachmentBytes }) {
    const receiving = this.streams.get(stream);
    if (receiving.frame) throw unexpected(`frame on stream ${stream} before the last one is complete`); // 5.3/7
    if (attachmentBytes > 0) throw malformed(`attachment on stream ${stream}`); // 5.3, 5.2/12
    this.checkClass(kind, stream === CONSENSUS ? 'consensus' : 'gossip', stream);
    return receiving;
  }

  openBulk({ stream, kind, attachmentBytes }) {
    if (stream !== this.nextBulk) throw malformed(`bulk stream ${stream}, expected ${this.nextBulk}`); // 5.3/2
    if (stream >= this.streamsAllowed) {
      throw new RemoteError('StreamLimitExceeded', `stream ${stream}, the limit is ${this.streamsAllowed}`); // 5.3/4
    }
    this.checkClass(kind, 'bulk', stream);
    if (attachmentBytes > 0 && !mayAttach(kind)) throw malformed(`kind ${kind} with an attachment`); // 5.2/12
    this.nextBulk += 1;
    const receiving = new Receiving(limits.BULK_CREDIT_BYTES);
    this.streams.set(stream, receiving);
    return receiving;
  }

  /** 5.3/8; a kind that isn't known has no class, and is looked at when its signature was verified (5.3/9). */
  checkClass(kind, expected, stream) {
    const actual = classOf(kind);
    if (actual !== null && actual !== expected) throw malformed(`kind ${kind} on stream ${stream}`);
  }

  takeData({ stream, data }) {
    const receiving = this.streams.get(stream);
    if (!receiving?.frame) throw unexpected(`DATA on stream ${stream}, where no frame is incomplete`); // 5.2/6
    return this.takePayload(stream, receiving, data);
  }

  charge(number, stream, bytes) {
    stream.bytes += bytes;
    if (stream.bytes > stream.limit) throw new RemoteError('CreditExceeded', `stream ${number} is over its credit`); // 5.4/2
  }

  takePayload(number, stream, data) {
    this.charge(number, stream, data.length);
    const { frame } = stream;
    frame.take(data, this.sessionId, this.peerKey);
    if (!frame.isComplete) {
      this.giveCredit(number, stream, frame.totalBytes - frame.arrivedBytes);
      return null;
    }
    stream.frame = null;
    if (number >= FIRST_BULK) this.finishBulk(number);
    else this.giveCredit(number, stream, 0);
    const { kind } = frame.header;
    if (classOf(kind) === null) {
      if (number === CONSENSUS) throw new RemoteError('UnknownKind', `kind ${kind} on stream 0`); // 5.3/9
      return null;
    }
    return {
      type: 'message',
      kind,
      message: decodeMessage(kind, frame.body),
      attachment: frame.attachment,
      attachmentDigest: frame.attachmentDigest,
    };
  }

  /** Raise a stream's limit when half of its window is used (5.4/5, 5.4/6); on a bulk stream no further than its end. */
  giveCredit(number, stream, missing) {
    const window = number >= FIRST_BULK ? limits.BULK_WINDOW_BYTES_MIN : limits.STREAM_CREDIT_BYTES;
    if (stream.limit - stream.bytes > window / HALF) return;
    const limit = stream.bytes + (number >= FIRST_BULK ? Math.min(window, missing) : window);
    if (limit <= stream.limit) return;
    stream.limit = limit;
    this.sendPacket(packet.credit(number, limit));
  }

  finishBulk(number) {
    this.streams.delete(number); // 5.3/3
    this.doneBulk += 1;
    this.allowStreams();
  }

  /** Raise the stream limit, for several streams at once (5.3/5). */
  allowStreams() {
    const allowed = FIRST_BULK + this.doneBulk + limits.STREAMS_OPEN_MAX;
    if (allowed - this.streamsAllowed < limits.STREAMS_OPEN_MAX / HALF) return;
    this.streamsAllowed = allowed;
    this.sendPacket(packet.streams(allowed));
  }

  takeCredit({ stream, limit }) {
    if (stream >= FIRST_BULK) throw malformed(`CREDIT for stream ${stream}, which was never opened`); // 5.4/3
    if (limit < this.sendLimits[stream]) throw malformed(`CREDIT lowers the limit of stream ${stream}`); // 5.4/3
    this.sendLimits[stream] = limit;
    return null;
  }
}
