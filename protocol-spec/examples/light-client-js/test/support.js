// What tests share.

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

export const hex = (text) => Buffer.from(text, 'hex');

/** Bytes that look random and are the same every time. */
export function noise(length, seed = 1) {
  let x = seed;
  return Buffer.from(Array.from({ length }, () => (x = (x * 1103515245 + 12345) & 0x7fffffff) >> 16));
}

/** Assert that a step is refused as an error of the peer with this name. */
export function refuses(name, step) {
  assert.throws(step, (error) => {
    assert.equal(error.isRemote, true, `not a RemoteError but ${error.stack}`);
    assert.equal(error.name, name);
    return true;
  });
}

/** Bytes as a vector writes them: hex, or runs of [hex, times]. */
export const unspell = (value) =>
  typeof value === 'string' ? hex(value) : Buffer.concat(value.runs.map(([part, times]) => hex(part.repeat(times))));

const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const camel = (name) => name.replace(/_([a-z0-9])/g, (_, letter) => letter.toUpperCase());

/** A value of ours as a vector writes it: bytes as hex, large integers as text, fields in snake case. */
export function plain(value) {
  if (Buffer.isBuffer(value)) return value.toString('hex');
  if (typeof value === 'bigint') return value >= -MAX && value <= MAX ? Number(value) : value.toString();
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [snake(name), plain(each)]));
}
const MAX = BigInt(Number.MAX_SAFE_INTEGER);

/** Like `plain`, but a record is the list of its values. */
export function positional(value) {
  if (Array.isArray(value)) return value.map(positional);
  const isRecord = value !== null && typeof value === 'object' && !Buffer.isBuffer(value);
  return isRecord ? Object.values(value).map(positional) : plain(value);
}

/** What a vector writes, in the form of `plain`: runs of bytes as hex. */
export function flat(value) {
  if (Array.isArray(value)) return value.map(flat);
  if (value === null || typeof value !== 'object') return value;
  if ('runs' in value) return unspell(value).toString('hex');
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, flat(each)]));
}

/** A record's fields with names in camel case; what they hold stays as the vector writes it. */
export const fieldsOf = (value) => Object.fromEntries(Object.entries(value).map(([name, each]) => [camel(name), each]));

const SKIPPED = Symbol('skipped');
/** What a check gives for a case that is no business of a light client. */
export const skipped = SKIPPED;

// DEEPSHARD_VECTORS names another folder of vectors to try.
const FOLDER = process.env.DEEPSHARD_VECTORS ?? fileURLToPath(new URL('../../../vectors', import.meta.url));

const READ = new Set();

/** Tell which vector files nobody has read, of those that are no business of a light client. */
export function tellUnread(others) {
  test('vector files that are not read here', (t) => {
    const names = existsSync(FOLDER) ? readdirSync(FOLDER).filter((name) => name.endsWith('.json')) : [];
    const unread = names
      .map((name) => name.slice(0, -'.json'.length))
      .filter((name) => !READ.has(name) && !others.includes(name));
    t.diagnostic(unread.join(', ') || 'none');
  });
}

/**
 * Run `check(case, document)` for every case of protocol-spec/vectors/NAME.json, if the file is there. A case that expects
 * an error has to throw a RemoteError (or TrustExpired) of that name; any other has to return, or throw nothing.
 */
export function eachVector(name, check) {
  READ.add(name);
  const path = join(FOLDER, `${name}.json`);
  if (!existsSync(path)) {
    test(`vectors ${name}`, { skip: `${name}.json is not there` }, () => {});
    return;
  }
  test(`vectors ${name}`, (t) => {
    const document = JSON.parse(readFileSync(path, 'utf8'));
    const outcomes = document.cases.map((each) => ({ name: each.name, outcome: outcomeOf(each, document, check) }));
    const failures = outcomes.filter(({ outcome }) => outcome !== null && outcome !== SKIPPED);
    const skips = outcomes.filter(({ outcome }) => outcome === SKIPPED).length;
    t.diagnostic(`${name}: ${outcomes.length - skips} cases, ${skips} left out`);
    assert.deepEqual(failures, []);
  });
}

/** Null if the case holds, SKIPPED, or what went otherwise. */
function outcomeOf(each, document, check) {
  const expected = each.expect === 'ok' ? null : each.expect.error;
  try {
    if (check(each, document) === SKIPPED) return SKIPPED;
    return expected && `expected ${expected}, it was accepted`;
  } catch (error) {
    const isRefusal = error.isRemote || error.name === 'TrustExpired' || error.name === 'UsageError';
    if (!isRefusal) return error.stack;
    return error.name === expected ? null : `expected ${expected ?? 'ok'}, got ${error.name}: ${error.message}`;
  }
}
