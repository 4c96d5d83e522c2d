// What tests share.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
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

/** Run `check(testCase)` for every case of protocol-spec/vectors/NAME.json, if the file is there. */
export function eachVector(name, check) {
  const path = fileURLToPath(new URL(`../../../vectors/${name}.json`, import.meta.url));
  if (!existsSync(path)) {
    test(`vectors ${name}`, { skip: `${name}.json is not there` }, () => {});
    return;
  }
  const { cases } = JSON.parse(readFileSync(path, 'utf8'));
  test(`vectors ${name}: ${cases.length} cases`, () => {
    const failures = cases.flatMap((each) => {
      try {
        check(each);
        return [];
      } catch (error) {
        return [`${each.name}: ${error.message}`];
      }
    });
    assert.deepEqual(failures, []);
  });
}
