"""What a validator checks of a submission before it fetches its chunks."""

from __future__ import annotations

import pytest
from keeper_network import SHARDS, model
from msgspec.structs import replace

from deepshard.chunk_tree import chunks_root
from deepshard.ledger.records import TrainerEntry
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.services.scorer import check_chunk_tree
from deepshard.services.weights import Lineage, WrongManifest
from deepshard.shards.layout import chunk_leaves
from deepshard.shards.rules import manifest_digest


@pytest.mark.clause("11.12/1")
def test_a_submission_whose_chunk_tree_is_not_its_manifests_is_refused() -> None:
    manifest, _ = model(0)
    lineage = Lineage(((manifest_digest(manifest), manifest),))
    entry = TrainerEntry(
        address=bytes(20),
        stake=1,
        commitment=content_digest(b"c"),
        manifest=manifest_digest(manifest),
        weights_root=manifest.weights_root,
        chunks_root=chunks_root(chunk_leaves([manifest])),
        shard_count=SHARDS,
        checkpoint_root=ZERO_DIGEST,
        outcome="pending",
        reason="",
        paid=0,
    )
    check_chunk_tree(lineage, entry)
    for change in ({"chunks_root": content_digest(b"x")}, {"shard_count": SHARDS - 1}):
        with pytest.raises(WrongManifest, match="chunk tree"):
            check_chunk_tree(lineage, replace(entry, **change))
