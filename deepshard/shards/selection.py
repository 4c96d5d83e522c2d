"""Which shards some part of the work needs: layers of a pipeline stage, or one rank's part of every matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from deepshard.errors import UsageError
from deepshard.shards.layout import row_elements, tensor_rows
from deepshard.shards.manifest import Manifest, TensorEntry, TensorSlice
from deepshard.shards.partition import is_input_split, layer_of


class Part(NamedTuple):
    """What of a model is wanted.

    `layers` are the first and the one behind the last, None for all; with layer 0 come the embeddings, with the last
    what follows it. `rank` of `ranks` is wanted of each matrix that tensor parallelism splits, all of the others.
    """

    layers: tuple[int, int] | None = None
    rank: int = 0
    ranks: int = 1


def layer_count(tensors: Sequence[TensorEntry]) -> int:
    """Layers of a model: one more than the highest number in the tensors' names."""
    return max((number + 1 for tensor in tensors if (number := layer_of(tensor.name)) is not None), default=0)


def shards_for(manifest: Manifest, part: Part) -> tuple[int, ...]:
    """Numbers of the shards that hold any of what is wanted, in order.

    Raises:
        UsageError: there are no such layers or ranks.
    """
    count = layer_count(manifest.tensors)
    if part.layers is not None and not 0 <= part.layers[0] < part.layers[1] <= count:
        raise UsageError(
            f"there are no layers {part.layers[0]} to {part.layers[1] - 1}: the model has {count}, from 0 on"
        )
    if not 0 <= part.rank < part.ranks:
        raise UsageError(f"there is no rank {part.rank} of {part.ranks}: ranks are counted from 0")
    wanted = [_has_layer(manifest, tensor, part, count) for tensor in manifest.tensors]
    return tuple(
        number
        for number, shard in enumerate(manifest.shards)
        if any(wanted[cut.tensor] and _has_rank(manifest.tensors[cut.tensor], cut, part) for cut in shard.slices)
    )


def _has_layer(manifest: Manifest, tensor: TensorEntry, part: Part, count: int) -> bool:
    if part.layers is None:
        return True
    layer = layer_of(tensor.name)
    if layer is not None:
        return part.layers[0] <= layer < part.layers[1]
    is_input = "embed" in tensor.name or "wte" in tensor.name
    if not is_input:
        return part.layers[1] == count
    has_head = any("lm_head" in other.name for other in manifest.tensors)
    return part.layers[0] == 0 or (part.layers[1] == count and not has_head)


def _has_rank(tensor: TensorEntry, cut: TensorSlice, part: Part) -> bool:
    if is_input_split(tensor):
        length, start, count = row_elements(tensor), cut.column_start, cut.column_count or row_elements(tensor)
    elif len(tensor.shape) == 2:
        length, start, count = tensor_rows(tensor), cut.row_start, cut.row_count
    else:
        return True  # norms and biases are small, and experts go to ranks in ways of their own
    return start * part.ranks < length * (part.rank + 1) and (start + count) * part.ranks > length * part.rank
