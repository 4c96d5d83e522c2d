// The listener's side, as far as tests of the dialler need it: it says whatever a test wants, in the right keys.

import { taggedHash } from '../lib/blake3.js';
import { concat, u16, u32, u64 } from '../lib/bytes.js';
import { agree, ephemeralKey, secretKey, sign } from '../lib/ed25519.js';
import { signedBytes } from '../lib/frames.js';
import {
  boxKeys,
  Dialler,
  endTranscript,
  Finish,
  Hello,
  helloTranscript,
  Kind,
  linkKeys,
  message,
  openClaims,
  Reply,
  replyTranscript,
  sealClaims,
} from '../lib/handshake.js';
import { Link } from '../lib/link.js';
import { decode, encode } from '../lib/msgpack.js';
import { Opener, packet, parsePacket, Sealer, Type } from '../lib/packets.js';
import { contentAddress } from '../lib/ranges.js';

export const NETWORK = { chainId: 'test', genesisHash: taggedHash('a genesis') };
export const DIALLER = secretKey(Buffer.alloc(32, 1));
export const LISTENER = secretKey(Buffer.alloc(32, 2));

export const dialler = (changes = {}) =>
  new Dialler({
    ...NETWORK,
    secret: DIALLER,
    ephemeralSecret: Buffer.alloc(32, 3),
    nonce: Buffer.alloc(32, 4),
    ...changes,
  });

export class Listener {
  constructor({ secret = LISTENER, network = NETWORK, ephemeral = null } = {}) {
    Object.assign(this, { secret, network, theirs: ephemeral });
    this.ephemeral = ephemeralKey(Buffer.alloc(32, 5));
    this.sequence = 0n;
  }

  /** REPLY to a HELLO; `change` may alter the listener's box. */
  reply(hello, change = (box) => box) {
    const { ephemeral } = decode(hello.subarray(4), Hello, 1024);
    const ours = {
      ...this.network,
      ephemeral: this.theirs ?? this.ephemeral.public,
      nonce: Buffer.alloc(32, 6),
      features: [],
    };
    this.shared = agree(this.ephemeral, ephemeral);
    const t0 = helloTranscript(hello, encode(ours, Hello));
    this.boxKeys = boxKeys(this.shared, t0);
    const claims = { publicKey: this.secret.public, roles: ['validator'], listen: '' };
    const box = change(sealClaims('listener', this.secret, claims, this.boxKeys.listener, t0));
    this.t1 = replyTranscript(t0, box);
    return message(Kind.REPLY, Reply, { hello: ours, box });
  }

  /** Take FINISH; gives the dialler's claims. */
  finish(bytes) {
    const { box } = decode(bytes.subarray(4), Finish, 1024);
    const keys = linkKeys(this.shared, endTranscript(this.t1, box));
    this.sessionId = keys.sessionId;
    this.sealer = new Sealer(keys.toDialler);
    this.opener = new Opener(keys.toListener);
    return openClaims('dialler', box, this.boxKeys.dialler, this.t1);
  }

  ping = (nonce = 0n) => this.sealer.seal(packet.ping(nonce));

  /** The packets in what the dialler sent. */
  read(output) {
    for (const bytes of output) this.opener.push(bytes);
    const packets = [];
    for (let plain; (plain = this.opener.next()) !== null;) packets.push(parsePacket(plain));
    return packets;
  }

  /** Plain texts of the packets of a frame. `change` overrides header fields, `parts` says how the rest is cut. */
  frame(
    kind,
    stream,
    body,
    { attachment = Buffer.alloc(0), change = {}, digest = contentAddress(attachment), part = 65536 } = {},
  ) {
    const fields = {
      magic: 'DS',
      version: 2,
      flags: 0,
      kind,
      stream,
      sentBytes: body.length,
      bodyBytes: body.length,
      attachmentBytes: attachment.length,
      sequence: this.sequence,
      signer: this.secret,
      plainBody: body,
      ...change,
    };
    this.sequence += 1n;
    const header = concat(
      Buffer.from(fields.magic),
      Buffer.of(fields.version, fields.flags),
      u16(fields.kind),
      u32(fields.stream),
      u32(fields.sentBytes),
      u32(fields.bodyBytes),
      u32(fields.attachmentBytes),
      u64(fields.sequence),
    );
    const hasDigest = fields.attachmentBytes > 0;
    const signature = sign(
      fields.signer,
      'frame',
      signedBytes(this.sessionId, header, fields.plainBody, hasDigest ? digest : null),
    );
    const first = body.subarray(0, 65536);
    const rest = concat(body.subarray(65536), attachment);
    const plains = [concat(Buffer.of(Type.FRAME), header, signature, hasDigest ? digest : Buffer.alloc(0), first)];
    for (let at = 0; at < rest.length; at += part)
      plains.push(concat(Buffer.of(Type.DATA), u32(stream), rest.subarray(at, at + part)));
    return plains;
  }

  /** Sealed packets of plain texts. */
  seal = (...plains) => concat(...plains.flat().map((plain) => this.sealer.seal(plain)));
}

/** A link that is up, and its listener. */
export function linked(now = 0) {
  const ours = dialler();
  const listener = new Listener();
  const { finish, keys, peer } = ours.receive(listener.reply(ours.hello));
  listener.finish(finish);
  const { toListener: send, toDialler: receive, sessionId } = keys;
  const link = new Link({ send, receive, sessionId, secretKey: DIALLER, peerKey: peer.publicKey }, now);
  link.receive(listener.ping(), now);
  listener.read(link.takeOutput());
  return { link, listener };
}
