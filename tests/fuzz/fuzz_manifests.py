"""Manifests: decoded, checked, and checked as the child of another. Bit 7 of the first byte mends the weights root."""

from __future__ import annotations

from typing import Final

from harness import Harness
from msgspec.structs import replace
from samples import DIGEST, MANIFEST

from deepshard.encoding import decode, encode
from deepshard.limits import CHUNK_DECODED_BYTES_MAX, MANIFEST_BYTES_MAX
from deepshard.shards.layout import slice_spans
from deepshard.shards.manifest import Manifest, ShardEntry
from deepshard.shards.rules import check_child, check_manifest, decode_manifest, manifest_digest, weights_root

PARENT: Final = replace(MANIFEST, weights_root=weights_root(MANIFEST.tensors, MANIFEST.shards))


def child() -> Manifest:
    first, second = PARENT.shards
    delta = replace(first, codec="xor-planes", base=first.decoded_digest, decoded_digest=bytes(32))
    shards: tuple[ShardEntry, ...] = (delta, second)
    root = weights_root(PARENT.tensors, shards)
    return replace(PARENT, shards=shards, parent=manifest_digest(PARENT), weights_root=root)


def check(data: bytes) -> None:
    if not data:
        return
    if data[0] & 0x80:
        manifest = decode(data[1:], Manifest, bytes_max=MANIFEST_BYTES_MAX)
        manifest = replace(manifest, weights_root=weights_root(manifest.tensors, manifest.shards))
        check_manifest(manifest)
    else:
        manifest = decode_manifest(data[1:])
    for shard in manifest.shards:
        spans = slice_spans(manifest.tensors, shard.slices)
        assert sum(size for _, size in spans) == shard.decoded_bytes <= CHUNK_DECODED_BYTES_MAX
    if data[0] & 1:
        check_child(manifest, PARENT)


def seeds() -> dict[str, bytes]:
    return {
        "genesis": b"\x00" + encode(PARENT),
        "mended": b"\x80" + encode(replace(PARENT, weights_root=DIGEST)),
        "child": b"\x01" + encode(child()),
        "child-mended": b"\x81" + encode(child()),
        "empty": b"\x80" + encode(replace(PARENT, tensors=(), shards=(), files=())),
    }


HARNESS: Final = Harness(check, seeds, prefix_bytes=1, shape="record")
