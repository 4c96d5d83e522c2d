// What the client does, step by step. `report` is told each one that was verified.

import { randomBytes } from 'node:crypto';
import { fetchBlob } from './blobs.js';
import { Connection } from './connection.js';
import { addressOf, secretKey } from './ed25519.js';
import { LocalError, UsageError } from './errors.js';
import { Follower } from './follower.js';
import { firstValidators, genesisHash } from './genesis.js';
import * as limits from './limits.js';
import { checkChild, decodeManifest, DELTA_CODECS, isKept } from './manifest.js';
import { currentModel, licence } from './records.js';
import { decodeShard } from './shards.js';
import { totalPower } from './validators.js';

/** Everything, in order, for the settings of cli.js. Throws at the first step that fails. */
export async function run(settings, report) {
  const { genesis } = settings;
  const secret = settings.secret ?? secretKey(randomBytes(32));
  const ours = addressOf(secret.public);
  const first = firstValidators(genesis);
  report('genesis', {
    chainId: genesis.chainId,
    genesisHash: genesisHash(genesis),
    validators: first.validators.length,
    power: totalPower(first),
  });
  const connection = await Connection.dial(settings.host, settings.port, {
    chainId: genesis.chainId,
    genesisHash: genesisHash(genesis),
    secret,
  });
  try {
    const { publicKey, roles } = connection.peer;
    report('handshake', { remote: connection.remote, publicKey, address: addressOf(publicKey), roles, ours });
    const follower = new Follower(connection, genesis, report);
    if (settings.trust) await follower.begin(settings.trust);
    await follower.follow(follower.height + settings.headers);
    await connection.reached(1);
    await follower.skipTo(connection.peerHeight);
    const { model, height } = await currentModel(follower);
    report('model', { version: model.version, manifest: model.manifest, height });
    await download(connection, follower, model, ours, settings.shard, report);
    await follower.follow(follower.height + settings.follow);
    report('done', { height: follower.height });
  } catch (error) {
    if (error.isRemote) connection.blame(error);
    throw error;
  } finally {
    await connection.close();
  }
}

/** The manifest, and the shard if one was asked for. */
async function download(connection, follower, model, ours, number, report) {
  const fetch = async (what, digest, bytesMax) => {
    const { data, ...facts } = await fetchBlob(connection, digest, bytesMax);
    report('blob', { what, digest, bytes: data.length, ...facts });
    return data;
  };
  const manifest = decodeManifest(await fetch('manifest', model.manifest, limits.MANIFEST_BYTES_MAX));
  if (!manifest.weightsRoot.equals(model.weightsRoot))
    throw new LocalError('the manifest has another weights root than the model');
  report('manifest', {
    tensors: manifest.tensors.length,
    shards: manifest.shards.length,
    decodedBytes: manifest.shards.reduce((sum, shard) => sum + shard.decodedBytes, 0),
    weightsRoot: manifest.weightsRoot,
  });
  if (number === null) return;
  if (number >= manifest.shards.length)
    throw new UsageError(`--shard ${number}: the manifest has ${manifest.shards.length} shards`);
  report('licence', await licence(follower, ours));
  await downloadShard(fetch, manifest, number, report);
}

/** Decoded bytes of a shard; of a delta, its parent's shard is downloaded first, down to one that stands alone. */
async function downloadShard(fetch, manifest, number, report) {
  const { codec, chunk: address, decodedBytes, decodedDigest } = manifest.shards[number];
  let parentShard = null;
  if (DELTA_CODECS.has(codec)) {
    const parent = decodeManifest(await fetch('parent manifest', manifest.parent, limits.MANIFEST_BYTES_MAX));
    checkChild(manifest, parent);
    parentShard = await downloadShard(fetch, parent, number, report);
    if (isKept(manifest.shards[number], parent.shards[number])) return parentShard;
  }
  const chunk = await fetch('chunk', address, limits.CHUNK_BYTES_MAX);
  const decoded = decodeShard(manifest, manifest.shards[number], chunk, parentShard);
  report('shard', { shard: number, codec, decodedBytes, decodedDigest });
  return decoded;
}
