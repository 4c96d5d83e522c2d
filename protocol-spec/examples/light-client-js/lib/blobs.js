// Blobs fetched by ranges, each verified when it arrives (8.7, 8.8).

import { LocalError, malformed, RemoteError } from './errors.js';
import * as limits from './limits.js';
import { BlobStatus, Kind, statusName } from './messages.js';
import { BLOCK_BYTES, blockCount, rangeBytes, verifyRange } from './ranges.js';

const UNDER_WAY_MAX = 4; // 8.8/7
const BUSY_ATTEMPTS = 5;
const BUSY_WAIT_MS = 500; // 8.6/9

/** One download: {data, blocks, requests} when it is done. */
export async function fetchBlob(connection, address, bytesMax) {
  const download = new Download(connection, address, bytesMax);
  await download.fetchRange(0); // gives the size (8.7/1)
  await Promise.all(Array.from({ length: UNDER_WAY_MAX }, () => download.work()));
  return { data: download.data, blocks: blockCount(download.data.length), requests: download.requests };
}

class Download {
  constructor(connection, address, bytesMax) {
    Object.assign(this, { connection, address, bytesMax, data: null, requests: 0, next: limits.RANGE_BLOCKS_MAX });
    this.pause = Promise.resolve();
  }

  /** Fetch ranges until none is left to begin. */
  async work() {
    while (this.next < blockCount(this.data.length)) {
      const from = this.next;
      this.next += limits.RANGE_BLOCKS_MAX;
      await this.fetchRange(from);
    }
  }

  /** Fetch, verify and keep the range from a block on. */
  async fetchRange(firstBlock) {
    const asked = { digest: this.address, firstBlock, blockCount: limits.RANGE_BLOCKS_MAX };
    for (let attempt = 1; ; attempt += 1) {
      await this.pause;
      this.requests += 1;
      const reply = await this.connection.request(Kind.RANGE_REQUEST, asked);
      if (!reply.digest.equals(this.address)) throw malformed('RangeReply names another digest'); // 8.6/6
      if (reply.status === BlobStatus.FOUND) {
        this.keep(firstBlock, reply);
        return;
      }
      const { size, proof, attachment } = reply;
      if (size !== 0 || proof.length > 0 || attachment.length > 0)
        throw malformed('RangeReply refuses, and sends data'); // 8.6/5
      if (reply.status !== BlobStatus.BUSY || attempt === BUSY_ATTEMPTS) {
        throw new LocalError(`the peer answered ${statusName(reply.status)} for ${this.address.toString('hex')}`); // 8.6/8
      }
      this.pause = new Promise((resolve) => setTimeout(resolve, BUSY_WAIT_MS));
    }
  }

  /** Verify a range (8.7/4, 8.7/5) and put it in its place. */
  keep(firstBlock, { size, firstBlock: first, proof, attachment: bytes }) {
    if (first !== firstBlock) throw malformed(`RangeReply from block ${first}, asked was ${firstBlock}`);
    if (size > this.bytesMax)
      throw new RemoteError('OversizedMessage', `blob of ${size} bytes, at most ${this.bytesMax} are allowed`);
    const count = Math.min(limits.RANGE_BLOCKS_MAX, blockCount(size) - first);
    if (count < 1 || bytes.length !== rangeBytes(size, first, count)) {
      throw malformed(`RangeReply with ${bytes.length} bytes from block ${first} on, of ${size} in all`);
    }
    try {
      verifyRange({ address: this.address, size, first, count, bytes, proof });
    } catch (error) {
      throw error.name === 'CorruptRange' ? new RemoteError('CorruptChunk', error.message) : error;
    }
    // The size is a part of the address, so no verified range can have another.
    this.data ??= Buffer.alloc(size);
    bytes.copy(this.data, first * BLOCK_BYTES);
  }
}
