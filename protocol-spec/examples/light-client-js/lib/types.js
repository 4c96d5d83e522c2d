// Types of fields that several records share (2.3).

import * as limits from './limits.js';
import { bytes, int } from './msgpack.js';

export const digest = bytes(32);
export const publicKey = bytes(32);
export const signature = bytes(64);
export const address = bytes(20);
export const height = int(0, 2n ** 62n);
export const amount = int(0, 2n ** 62n);
export const count = int(0, 2 ** 31 - 1);
export const round = int(0, 2 ** 31 - 1);
export const shardCount = int(0, limits.MANIFEST_SHARDS_MAX);
export const basisPoints = int(0, 10_000);
export const millinats = int(-(2 ** 40), 2 ** 40);
