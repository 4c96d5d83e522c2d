// Follows the chain over a connection: asks for light blocks, verifies them, and proves records under them (10.5, 10.6).

import { LocalError, malformed, RemoteError } from './errors.js';
import * as limits from './limits.js';
import {
  decodeLightBlock,
  trustedPower,
  trustGenesis,
  trustHeader,
  verifySequential,
  verifySkipping,
} from './light.js';
import { Kind } from './messages.js';
import { decodeProof, verifyState } from './state.js';
import { powerOf, totalPower } from './validators.js';

const PROOF_ATTEMPTS = 5;
const KEPT_BLOCKS = 64; // 6.4/21

export class Follower {
  /** `report(step, facts)` is told every verified header. */
  constructor(connection, genesis, report, nowMs = Date.now) {
    Object.assign(this, { connection, report, nowMs });
    this.periodMs = Number(genesis.params.trustingPeriodMs); // 10.5/7
    this.trusted = trustGenesis(genesis);
    this.headers = new Map(); // the newest verified headers, by height
  }

  /** Begin from a header that a person trusts, instead of genesis. */
  async begin({ height, id }) {
    const [block] = await this.ask(height, 1);
    this.trust(trustHeader(this.trusted.chainId, block, id, this.nowMs(), this.periodMs));
    this.report('header', { ...this.facts(block), how: 'trusted by its id' });
  }

  get height() {
    return Number(this.trusted.height);
  }

  /** Verify the next headers one after another up to a height, waiting for blocks that aren't decided yet (10.5/4). */
  async follow(height) {
    while (this.height < height) {
      await this.connection.reached(this.height + 1);
      const count = Math.min(height - this.height, limits.SYNC_BLOCKS_MAX);
      const blocks = await this.ask(this.height + 1, count);
      for (const block of blocks) {
        this.trust(verifySequential(this.trusted, block, this.nowMs(), this.periodMs));
        this.report('header', { ...this.facts(block), how: 'sequential' });
      }
    }
  }

  /** Verify a header of a later height at once, or by way of headers between where too few signers are known (10.5/5). */
  async skipTo(height) {
    while (this.height < height) {
      for (let target = height; ; target = this.height + Math.ceil((target - this.height) / 2)) {
        const [block] = await this.ask(target, 1);
        const isNext = target === this.height + 1;
        try {
          const power = trustedPower(this.trusted, block.certificate);
          const known = { trustedPower: power, trustedTotal: totalPower(this.trusted.validators) };
          this.trust(verifySkipping(this.trusted, block, this.nowMs(), this.periodMs));
          this.report('header', {
            ...this.facts(block),
            ...(isNext ? { how: 'sequential' } : { how: 'skipping', ...known }),
          });
          break;
        } catch (error) {
          if (error.name !== 'InsufficientTrust') throw error; // for the next height it never is
          this.report('too-far', { height: target, reason: error.message });
        }
      }
    }
  }

  /** Light blocks from a height on; at least one. */
  async ask(fromHeight, count) {
    const { headers } = await this.connection.request(Kind.HEADERS_REQUEST, { fromHeight: BigInt(fromHeight), count });
    if (headers.length > count) throw malformed(`${headers.length} headers, ${count} were asked for`); // 6.4/14
    if (headers.length === 0) throw new LocalError(`the peer has no header ${fromHeight}`);
    const blocks = headers.map(decodeLightBlock);
    blocks.forEach(({ header }, i) => {
      const expected = BigInt(fromHeight + i);
      if (header.height !== expected)
        throw new RemoteError('InvalidLightBlock', `header ${header.height}, asked was ${expected}`);
    });
    return blocks;
  }

  trust(trusted) {
    this.trusted = trusted;
    this.headers.set(this.height, trusted.header);
    this.headers.delete([...this.headers.keys()].find((height) => height < this.height - KEPT_BLOCKS));
  }

  facts({ header, certificate, validators }) {
    const signers = certificate.signatures.map(({ validator }) => validator);
    return {
      height: Number(header.height),
      blockId: this.trusted.blockId,
      timeMs: Number(header.timeMs),
      round: certificate.round,
      power: powerOf(validators, signers),
      totalPower: totalPower(validators),
      signers: signers.length,
      validators: validators.validators.length,
    };
  }

  /**
   * The bytes of a record of the state, proven under a verified header; null if proven absent (6.4/19 to 6.4/21).
   * Gives {header, value}.
   */
  async prove(key) {
    for (let attempt = 0; attempt < PROOF_ATTEMPTS; attempt += 1) {
      const { height, value, proof } = await this.connection.request(Kind.PROOF_REQUEST, { key });
      const at = Number(height);
      if (at > this.height) await this.skipTo(at);
      const header = this.headers.get(at);
      if (header === undefined) continue; // of a height that was skipped: the peer's next answer is newer
      verifyState(header.stateRoot, key, value, decodeProof(proof));
      return { header, value };
    }
    throw new LocalError(`the peer proved nothing at a verified height in ${PROOF_ATTEMPTS} attempts`);
  }
}
