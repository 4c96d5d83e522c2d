"""Checks of `chunks.json`."""

from __future__ import annotations

import numpy as np

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.conformance.vectors.read import read_shard, read_tensor
from deepshard.shards.codec import decode_and_verify, decode_lora, decode_shard, encode_lora_entry, encode_shard
from deepshard.shards.factors import read_ranks, unpack_factors
from deepshard.shards.layout import slice_spans


def check(case: Fields) -> Json:
    """Decode a chunk; our own encoder has to make one that decodes to the same."""
    tensors = [read_tensor(tensor) for tensor in case["tensors"]]
    entry = read_shard(case["shard"])
    base = None if case["base"] is None else case.data("base")
    decoded = decode_and_verify(entry, tensors, case.data("chunk"), base)
    if entry.codec == "lora":
        assert base is not None
        ranks, start, size = read_ranks(case.data("chunk"), tensors, entry.slices, "")
        elements = decode_shard(case.data("chunk")[start:], [("bf16", size)], "planes")
        factors = unpack_factors(np.frombuffer(elements, np.uint8), ranks, tensors, "")
        _, again = encode_lora_entry(entry.slices, decoded, base=base, factors=factors)
        return {"decoded": decoded if decode_lora(again, tensors, entry.slices, base) == decoded else b""}
    spans = slice_spans(tensors, entry.slices)
    ours = encode_shard(decoded, spans, entry.codec, base=base)
    return {"decoded": decoded if decode_shard(ours, spans, entry.codec, base=base) == decoded else b""}
