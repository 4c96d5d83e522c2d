"""Checks of `manifests.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.encoding import encode
from deepshard.shards.rules import check_child, decode_manifest, manifest_digest


def check(case: Fields) -> Json:
    """Check a manifest on its own, and against its parent if there is one."""
    manifest = decode_manifest(case.data("encoded"))
    if "parent_encoded" in case:
        check_child(manifest, decode_manifest(case.data("parent_encoded")))
    return {"manifest": manifest, "digest": manifest_digest(manifest), "encoded": encode(manifest)}
