// Blobs fetched by ranges, each verified before the next is asked for in its place (1.5, chapter 8).

import { LocalError, malformed, RemoteError } from './errors.js';
import * as limits from './limits.js';
import { BlobStatus, Kind, statusName } from './messages.js';
import { BLOCK_BYTES, blockCount, rangeBytes, verifyRange } from './ranges.js';

const UNDER_WAY_MAX = 4;
const BUSY_ATTEMPTS = 5;
const BUSY_WAIT_MS = 500;

/** Download the blob with this address, of at most `bytesMax` bytes: {data, blocks, requests}. */
export async function fetchBlob(connection, address, bytesMax) {
  const first = await fetchRange(connection, address, 0, bytesMax, null);
  const { size } = first;
  const data = Buffer.alloc(size);
  first.bytes.copy(data);
  const blocks = blockCount(size);
  let next = limits.RANGE_BLOCKS_MAX;
  let requests = 1;
  const work = async () => {
    while (next < blocks) {
      const from = next;
      next += limits.RANGE_BLOCKS_MAX;
      requests += 1;
      const { bytes } = await fetchRange(connection, address, from, bytesMax, size);
      bytes.copy(data, from * BLOCK_BYTES);
    }
  };
  await Promise.all(Array.from({ length: UNDER_WAY_MAX }, work));
  return { data, blocks, requests };
}

/** One verified range: {size, bytes}. `size` is null until the first range has proven it. */
async function fetchRange(connection, address, firstBlock, bytesMax, size) {
  const blockCountAsked = limits.RANGE_BLOCKS_MAX;
  for (let attempt = 1; ; attempt += 1) {
    const reply = await connection.request(Kind.RANGE_REQUEST, { digest: address, firstBlock, blockCount: blockCountAsked });
    if (!reply.digest.equals(address)) throw malformed('RangeReply for another digest');
    if (reply.status === BlobStatus.BUSY && attempt < BUSY_ATTEMPTS) {
      await new Promise((resolve) => setTimeout(resolve, BUSY_WAIT_MS));
      continue;
    }
    if (reply.status !== BlobStatus.FOUND) {
      throw new LocalError(`the peer answered ${statusName(reply.status)} for ${address.toString('hex')}`);
    }
    if (reply.size > bytesMax) throw new RemoteError('OversizedMessage', `a blob of ${reply.size} bytes, at most ${bytesMax} are allowed`);
    if (size !== null && reply.size !== size) throw malformed(`RangeReply says ${reply.size} bytes, the address is of ${size}`);
    if (reply.firstBlock !== firstBlock) throw malformed(`RangeReply from block ${reply.firstBlock}, asked was ${firstBlock}`);
    const count = Math.min(blockCountAsked, blockCount(reply.size) - firstBlock);
    if (count < 1) throw malformed(`RangeReply from block ${firstBlock} of ${blockCount(reply.size)}`);
    const bytes = reply.attachment;
    if (bytes.length !== rangeBytes(reply.size, firstBlock, count)) throw malformed(`RangeReply of ${bytes.length} bytes`);
    verifyRange({ address, size: reply.size, first: firstBlock, count, bytes, proof: reply.proof });
    return { size: reply.size, bytes };
  }
}
