// Manifests: what a version of the weights consists of, and the rules that one has to keep (8.2, 8.3).

import { malformed, RemoteError } from './errors.js';
import * as limits from './limits.js';
import { merkleRoot } from './merkle.js';
import { bytes, decode, encode, enumeration, int, list, record, text } from './msgpack.js';
import { contentAddress } from './ranges.js';
import { count, digest } from './types.js';

export const ZERO_DIGEST = Buffer.alloc(32);

/** Bytes of an element (8.2/3), in the order of dtypes within a chunk (8.4/3). */
export const ITEM_BYTES = Object.freeze({ bf16: 2, f16: 2, f32: 4, i8: 1 });

/** Text of a pattern (8.2/2). */
function named(pattern, most) {
  const of = text(most, 1);
  const matching = (value) => {
    if (!pattern.test(value)) throw malformed(`name ${JSON.stringify(value)}`);
    return value;
  };
  return {
    encode: of.encode,
    read: (reader) => matching(of.read(reader)),
    fromJson: (value) => matching(of.fromJson(value)),
  };
}

const TensorEntry = record('TensorEntry', {
  name: named(/^[A-Za-z0-9_.-]+$/, 256),
  dtype: enumeration(...Object.keys(ITEM_BYTES)),
  shape: list(int(0, 2 ** 31 - 1)),
});
const TensorSlice = record('TensorSlice', {
  tensor: count,
  rowStart: count,
  rowCount: count,
  columnStart: count,
  columnCount: count,
});
export const ShardEntry = record('ShardEntry', {
  slices: list(TensorSlice, Infinity, 1),
  decodedBytes: int(0, limits.CHUNK_DECODED_BYTES_MAX),
  decodedDigest: digest,
  codec: enumeration('planes', 'xor-planes', 'raw', 'lora'),
  chunk: digest,
  chunkBytes: int(0, limits.CHUNK_BYTES_MAX),
  base: digest,
});
const FileEntry = record('FileEntry', {
  name: named(/^[A-Za-z0-9_-][A-Za-z0-9_.-]*$/, 64),
  size: count,
  parts: list(bytes(32)),
});
export const Manifest = record('Manifest', {
  format: int(1, 1),
  parent: digest,
  weightsRoot: digest,
  tensors: list(TensorEntry),
  shards: list(ShardEntry, limits.MANIFEST_SHARDS_MAX),
  files: list(FileEntry),
});

/** Codecs whose chunks say how a shard differs from the parent's. */
export const DELTA_CODECS = new Set(['xor-planes', 'lora']);

/** Whether a shard has kept its parent's entry: the same bytes, decoded as the parent's are (8.3/4). */
export const isKept = (shard, old) => encode(shard, ShardEntry).equals(encode(old, ShardEntry));

const tensorTable = list(TensorEntry);
const refuse = (name, message) => {
  throw new RemoteError(name, message);
};

/** A manifest that keeps every rule, from its encoding (8.3/1). */
export function decodeManifest(data) {
  const manifest = decode(data, Manifest, limits.MANIFEST_BYTES_MAX);
  checkTensors(manifest);
  manifest.shards.forEach((shard, number) => checkShard(manifest, shard, number));
  checkCoverage(manifest);
  checkFiles(manifest);
  if (!weightsRoot(manifest).equals(manifest.weightsRoot))
    refuse('WrongWeightsRoot', 'the weights root is not that of the shards');
  return manifest;
}

/** Root over the tensor table and the decoded digests (8.2/7). */
export function weightsRoot({ tensors, shards }) {
  return merkleRoot([encode(tensors, tensorTable), ...shards.map((shard) => shard.decodedDigest)]);
}

/** Check a manifest against the one that its deltas build on; both keep the rules by themselves (8.3/2). */
export function checkChild(manifest, parent) {
  const differs = (type, one, other) => !encode(one, type).equals(encode(other, type));
  const inconsistent = (message) => refuse('InconsistentBase', message);
  if (!contentAddress(encode(parent, Manifest)).equals(manifest.parent))
    inconsistent('another parent than the manifest names');
  if (differs(tensorTable, manifest.tensors, parent.tensors))
    inconsistent('manifest and parent have different tensors');
  if (differs(list(FileEntry), manifest.files, parent.files)) inconsistent('manifest and parent have different files');
  if (manifest.shards.length !== parent.shards.length) inconsistent('manifest and parent have different shards');
  manifest.shards.forEach((shard, number) => {
    const old = parent.shards[number];
    if (differs(list(TensorSlice), shard.slices, old.slices))
      inconsistent(`shard ${number} is cut differently from the parent's`);
    if (!shard.base.equals(ZERO_DIGEST) && !shard.base.equals(old.decodedDigest) && !isKept(shard, old))
      inconsistent(`shard ${number} builds on another base`);
  });
}

/** Number of rows: the first dimension, 1 where there is none (8.2/3). */
const rowsOf = ({ shape }) => shape[0] ?? 1;

const columnsOf = ({ shape }) => shape.slice(1).reduce((product, size) => product * BigInt(size), 1n);

function checkTensors({ tensors }) {
  const names = new Set();
  for (const { name, shape } of tensors) {
    if (shape.length > limits.TENSOR_DIMENSIONS_MAX)
      refuse('ManifestOutOfBounds', `tensor ${name} has ${shape.length} dimensions`);
    if (names.has(name)) refuse('DuplicateName', `two tensors are called ${name}`);
    names.add(name);
  }
}

/** Dtype and bytes of each slice of a shard, in the order of its decoded bytes (8.2/4, 8.2/5); no number overflows (8.3/3). */
export function spansOf(tensors, slices) {
  let total = 0n;
  return slices.map(({ tensor: number, rowStart, rowCount, columnStart, columnCount }) => {
    const tensor = tensors[number];
    if (tensor === undefined) refuse('BadCoverage', `a slice names tensor ${number} of ${tensors.length}`);
    if (rowStart + rowCount > rowsOf(tensor))
      refuse('BadCoverage', `a slice ends at row ${rowStart + rowCount} of ${tensor.name}`);
    const columns = columnsOf(tensor);
    const isBand = columnCount > 0 && BigInt(columnCount) < columns;
    if (BigInt(columnStart + columnCount) > columns || !(isBand || columnStart + columnCount === 0))
      refuse('BadCoverage', `a slice holds columns from ${columnStart} on, ${columnCount} of ${columns}`);
    const size = BigInt(rowCount) * (isBand ? BigInt(columnCount) : columns) * BigInt(ITEM_BYTES[tensor.dtype]);
    total += size;
    if (total > BigInt(limits.CHUNK_DECODED_BYTES_MAX)) refuse('WrongShardSize', `a shard of ${total} bytes`);
    return { dtype: tensor.dtype, bytes: Number(size) };
  });
}

function checkShard({ tensors, parent }, shard, number) {
  if (shard.slices.length > limits.SHARD_SLICES_MAX)
    refuse('ManifestOutOfBounds', `shard ${number} has ${shard.slices.length} slices`);
  const size = spansOf(tensors, shard.slices).reduce((sum, span) => sum + span.bytes, 0);
  if (shard.decodedBytes !== size)
    refuse('WrongShardSize', `shard ${number} declares ${shard.decodedBytes} bytes, its slices are ${size}`);
  const isDelta = DELTA_CODECS.has(shard.codec);
  if (isDelta === shard.base.equals(ZERO_DIGEST))
    refuse('InconsistentBase', `shard ${number} has codec ${shard.codec} and another base`);
  if (isDelta && parent.equals(ZERO_DIGEST))
    refuse('InconsistentBase', `shard ${number} builds on a base, but there is no parent`);
  const isPlain = shard.chunk.equals(shard.decodedDigest) && shard.chunkBytes === shard.decodedBytes;
  if (shard.codec === 'raw' && !isPlain)
    refuse('WrongShardSize', `shard ${number} is raw, but its chunk is not its decoded bytes`);
}

/** The slices have to cover the elements of each tensor once and in order: band by band, each from its first row to its last. */
function checkCoverage({ tensors, shards }) {
  let [tensor, row, column, width] = [0, 0, 0, 0]; // where the next slice has to begin, and the width of its band
  for (const slice of shards.flatMap(({ slices }) => slices)) {
    if (slice.tensor !== tensor || slice.rowStart !== row || slice.columnStart !== column)
      refuse('BadCoverage', `a slice begins at row ${slice.rowStart} of tensor ${slice.tensor}`);
    if (row > 0 && slice.columnCount !== width) refuse('BadCoverage', `a band of tensor ${tensor} changes its width`);
    const rows = rowsOf(tensors[tensor]);
    if (slice.rowCount === 0 && (rows > 0 || slice.columnCount > 0)) refuse('BadCoverage', `a slice holds no rows of tensor ${tensor}`);
    [row, width] = [row + slice.rowCount, slice.columnCount];
    if (row < rows) continue;
    const isLast = width === 0 || BigInt(column + width) === columnsOf(tensors[tensor]);
    [tensor, row, column] = isLast ? [tensor + 1, 0, 0] : [tensor, 0, column + width];
  }
  if (tensor !== tensors.length) refuse('BadCoverage', `the shards end before row ${row} of tensor ${tensor}`);
}

function checkFiles({ files }) {
  if (files.length > limits.MANIFEST_FILES_MAX) refuse('ManifestOutOfBounds', `${files.length} files`);
  const names = new Set();
  for (const { name, size, parts } of files) {
    if (names.has(name.toLowerCase())) refuse('DuplicateName', `two files are called ${name}`);
    names.add(name.toLowerCase());
    if (parts.length !== Math.ceil(size / limits.FILE_PART_BYTES_MAX))
      refuse('WrongFileParts', `file ${name} has ${parts.length} parts`);
  }
}
