"""A GGUF file as a source of bf16 tensors, dequantised a few rows at a time.

Names and layouts follow transformers' own GGUF loading, whose table of names and whose processors are used: those that
treat each element by itself are given rows, those that permute rows are asked once where each row comes from. For other
architectures there is no source, and the model is read as a whole.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from transformers import modeling_gguf_pytorch_utils as reading

from deepshard.compute.sources import Block
from deepshard.encoding import encode
from deepshard.primitives import tagged_hash
from deepshard.shards.layout import row_elements
from deepshard.shards.manifest import TensorEntry, TensorSlice
from deepshard.shards.rounding import to_bf16

_BY_ELEMENT: Final = frozenset({"TensorProcessor", "Gemma2TensorProcessor", "NemotronTensorProcessor"})
_BY_ROW: Final = "LlamaTensorProcessor"


class GgufSource:
    """The tensors of `model`, which needs no memory for them, out of a file.

    Args:
        path: the file.
        model: the model that its metadata describes, on the meta device.
        files: configuration and tokenizer.
    """

    def __init__(self, path: Path, model: Any, files: dict[str, bytes]) -> None:
        self.files = files
        self._reader = gguf.GGUFReader(path)
        architecture = reading.read_field(self._reader, "general.architecture")[0]
        kind = reading.TENSOR_PROCESSORS.get(architecture, reading.TensorProcessor)
        self._processor = kind(config=model.config.to_dict())
        self.is_streamable = kind.__name__ in {*_BY_ELEMENT, _BY_ROW}
        names = reading.get_gguf_hf_weights_map(model, self._processor)
        found = {names[tensor.name]: tensor for tensor in self._reader.tensors if tensor.name in names}
        self._tensors = [found[name] for name in sorted(found)]
        self.tensors = tuple(
            TensorEntry(name, "bf16", tuple(int(size) for size in reversed(found[name].shape)))
            for name in sorted(found)
        )
        self.is_streamable &= all(1 <= len(entry.shape) <= 2 for entry in self.tensors)
        self._rows = [self._row_order(tensor) for tensor in self._tensors]
        stat = path.stat()
        marks = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {version('gguf')} {version('transformers')}"
        parts = (name.encode() + data for name, data in sorted(files.items()))
        self.identity = tagged_hash("import source", encode(self.tensors), marks.encode(), *parts)

    def read(self, part: TensorSlice) -> Block:
        """See `Source.read`."""
        entry, tensor, order = self.tensors[part.tensor], self._tensors[part.tensor], self._rows[part.tensor]
        rows = slice(part.row_start, part.row_start + part.row_count)
        if len(entry.shape) == 1:
            values = self._processed(gguf.dequantize(tensor.data, tensor.tensor_type), tensor.name)[rows]
        elif order is None:
            values = self._processed(gguf.dequantize(tensor.data[rows], tensor.tensor_type), tensor.name)
        else:
            values = gguf.dequantize(tensor.data[order[rows]], tensor.tensor_type)
        values = values.reshape(part.row_count, row_elements(entry))
        if part.column_count:
            values = values[:, part.column_start : part.column_start + part.column_count]
        return to_bf16(values).view(np.uint8)

    def _processed(self, values: Any, name: str) -> Any:
        return self._processor.process(weights=values, name=name).weights

    def _row_order(self, tensor: Any) -> Any:
        """Which row of the file each row of a matrix is, where that isn't itself."""
        if type(self._processor).__name__ != _BY_ROW or len(tensor.shape) != 2:
            return None
        numbers = np.arange(int(tensor.shape[1]))[:, None]
        order = self._processed(numbers, tensor.name)[:, 0]
        return None if (order == numbers[:, 0]).all() else order
