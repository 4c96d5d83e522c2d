// Records of the state that the client reads, by proof (11.8).

import { LocalError } from './errors.js';
import { decode, record } from './msgpack.js';
import { amount, count, digest, height, publicKey, shardCount } from './types.js';

const RECORD_BYTES_MAX = 64 * 1024;
const MODEL_ATTEMPTS = 3;

const Chain = record('Chain', { height, beacon: digest, round: count, version: count, epoch: count });
const ModelVersion = record('ModelVersion', {
  version: count,
  manifest: digest,
  weightsRoot: digest,
  chunksRoot: digest,
  shardCount,
  height,
  value: amount,
});
const Licence = record('Licence', { buyer: publicKey, firstVersion: count, lastVersion: count, price: amount, height });

function modelKey(version) {
  const number = Buffer.alloc(8);
  number.writeBigUInt64BE(BigInt(version));
  return Buffer.concat([Buffer.from('model/', 'ascii'), number]);
}

/** The newest accepted weights, proven, as {model, height}. */
export async function currentModel(follower) {
  for (let attempt = 0; attempt < MODEL_ATTEMPTS; attempt += 1) {
    const { value: chain } = await follower.prove(Buffer.from('chain', 'ascii'));
    if (chain === null) throw new LocalError('the state has no chain record');
    const { version } = decode(chain, Chain, RECORD_BYTES_MAX);
    const { value, header } = await follower.prove(modelKey(version));
    if (value === null) throw new LocalError(`the state has no weights of version ${version}`);
    const model = decode(value, ModelVersion, RECORD_BYTES_MAX);
    if (model.manifest.equals(header.manifest)) return { model, height: Number(header.height) };
    // The certified header names a newer version (10.2/3): a round ended between the two proofs.
  }
  throw new LocalError('the proven model is not the one of the certified header');
}

/** Whether an address has a licence, proven: {height, lastVersion}, where lastVersion is null without one. */
export async function licence(follower, address) {
  const { value, header } = await follower.prove(Buffer.concat([Buffer.from('licence/', 'ascii'), address]));
  return {
    height: Number(header.height),
    lastVersion: value === null ? null : decode(value, Licence, RECORD_BYTES_MAX).lastVersion,
  };
}
