// The command line: what a person asked for, and how the steps are told.

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { formatAddress, secretKey } from './ed25519.js';
import { UsageError } from './errors.js';
import { parseGenesis } from './genesis.js';

export const HELP = `Usage: node client.js --peer HOST:PORT --genesis FILE [options]

A read-only light client of the Deepshard protocol: connects to a node, follows and verifies the chain's headers,
proves the current model against the state root, and downloads the manifest and one shard by verified ranges.

  --peer HOST:PORT   node to connect to; an IPv6 address stands in brackets
  --genesis FILE     genesis file of the network
  --trust HEIGHT:ID  header to begin from instead of genesis, by the hexadecimal block id that a source you trust gave
                     you; needed where genesis is older than the network's trusting period
  --headers N        headers to verify one after another; then it skips to the newest (default 3)
  --follow N         blocks to wait for and verify after that (default 1)
  --shard K          shard of the current weights to download, counted from 0 (default: none)
  --key FILE         secret key, as 64 hexadecimal digits; without it the client makes a new one, which has no licence
  --json             one JSON object a line
  --help             this text

Exit code: 0 if every step was verified, 1 if a step failed, 2 if the command line or a file is wrong.
`;

const OPTIONS = {
  peer: { type: 'string' },
  genesis: { type: 'string' },
  trust: { type: 'string' },
  headers: { type: 'string', default: '3' },
  follow: { type: 'string', default: '1' },
  shard: { type: 'string' },
  key: { type: 'string' },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
};
const COUNT_MAX = 1_000_000;
const FILE_BYTES_MAX = 64 * 1024 * 1024;

/** Read the command line and the files that it names. Throws UsageError with one line. */
export function readSettings(argv) {
  let values;
  try {
    ({ values } = parseArgs({ args: argv, options: OPTIONS, strict: true, allowPositionals: false }));
  } catch (error) {
    throw new UsageError(error.message.split('\n')[0]);
  }
  if (values.help) return { help: true };
  for (const name of ['peer', 'genesis'])
    if (values[name] === undefined) throw new UsageError(`--${name} is missing; see --help`);
  return {
    json: values.json,
    ...readPeer(values.peer),
    trust: values.trust === undefined ? null : readTrust(values.trust),
    headers: readCount('headers', values.headers),
    follow: readCount('follow', values.follow),
    shard: values.shard === undefined ? null : readCount('shard', values.shard),
    secret: readKey(values.key),
    genesis: parseGenesis(readText('genesis file', values.genesis)),
  };
}

function readPeer(value) {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9\-_.]{1,253})):(\d{1,5})$/.exec(value);
  const port = Number(match?.[3]);
  if (!match || port < 1 || port > 65_535) throw new UsageError(`--peer ${value}: expected HOST:PORT`);
  return { host: match[1] ?? match[2], port };
}

function readTrust(value) {
  const match = /^([1-9]\d{0,14}):([0-9a-f]{64})$/.exec(value);
  if (!match) throw new UsageError(`--trust ${value}: expected HEIGHT:ID, the id as 64 hexadecimal digits`);
  return { height: Number(match[1]), id: Buffer.from(match[2], 'hex') };
}

function readCount(name, value) {
  if (!/^\d{1,7}$/.test(value) || Number(value) > COUNT_MAX) {
    throw new UsageError(`--${name} ${value}: expected a number from 0 to ${COUNT_MAX}`);
  }
  return Number(value);
}

function readKey(path) {
  if (path === undefined) return null;
  const text = readText('key file', path).trim();
  if (!/^[0-9a-fA-F]{64}$/.test(text))
    throw new UsageError(`key file ${path}: expected 64 hexadecimal digits, and nothing else`);
  return secretKey(Buffer.from(text, 'hex'));
}

function readText(what, path) {
  let data;
  try {
    data = readFileSync(path);
  } catch (error) {
    throw new UsageError(`cannot read the ${what} ${path}: ${error.code ?? error.message}`);
  }
  if (data.length > FILE_BYTES_MAX) throw new UsageError(`the ${what} ${path} has ${data.length} bytes`);
  return data.toString('utf8');
}

const short = (bytes) => bytes.toString('hex').slice(0, 16);
const plural = (count, noun) => `${count} ${noun}${Number(count) === 1 ? '' : 's'}`;

/** One sentence for each step. */
const SENTENCES = {
  genesis: (f) =>
    `genesis: chain ${f.chainId}, hash ${short(f.genesisHash)}, ${plural(f.validators, 'validator')} of power ${f.power}`,
  handshake: (f) =>
    `handshake: ${f.remote} is ${formatAddress(f.address)}, roles ${f.roles.join(', ') || 'none'}; we are ${formatAddress(f.ours)}`,
  header: (f) =>
    `header ${f.height} verified, ${f.how}: id ${short(f.blockId)}, ${f.signers} of ${plural(f.validators, 'validator')} signed` +
    ` (power ${f.power} of ${f.totalPower})` +
    (f.how === 'skipping' ? `; power ${f.trustedPower} of the ${f.trustedTotal} trusted before is among them` : ''),
  'too-far': (f) => `header ${f.height} is too far: ${f.reason}; trying one in between`,
  model: (f) =>
    `model: version ${f.version}, manifest ${short(f.manifest)}, proven by the state root of header ${f.height}`,
  licence: (f) =>
    f.lastVersion === null
      ? `licence: proven absent at height ${f.height}`
      : `licence: versions up to ${f.lastVersion}, proven at height ${f.height}`,
  blob: (f) =>
    `${f.what} ${short(f.digest)}: ${plural(f.bytes, 'byte')} in ${plural(f.blocks, 'verified block')} of 16 KiB, ${plural(f.requests, 'request')}`,
  manifest: (f) =>
    `manifest: ${plural(f.tensors, 'tensor')} in ${plural(f.shards, 'shard')} of ${plural(f.decodedBytes, 'byte')}, weights root ${short(f.weightsRoot)}`,
  shard: (f) =>
    `shard ${f.shard} verified: ${f.codec}, ${plural(f.decodedBytes, 'byte')} decoded, digest ${short(f.decodedDigest)}`,
  done: (f) => `done: verified up to height ${f.height}`,
};

const plainValue = (_, value) => {
  if (typeof value === 'bigint') return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value.toString();
  return value?.type === 'Buffer' ? Buffer.from(value.data).toString('hex') : value;
};

/** A function (step, facts) that writes a line for each step. */
export function reporter(isJson, write = (line) => process.stdout.write(`${line}\n`)) {
  return (step, facts) => write(isJson ? JSON.stringify({ step, ...facts }, plainValue) : SENTENCES[step](facts));
}
