"""Where weights come from: safetensors files, alone or in a Hugging Face directory, read in pieces where they lie.

A file is an eight-byte length, a JSON header with dtype, shape and place of each tensor, and the tensors' bytes. The
header is a stranger's: it is bounded, and every place in it is checked before anything is read there. Nothing is kept
but the tables; a piece of a tensor is one `pread`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from deepshard.compute.model_files import read_files
from deepshard.compute.rounding import bytes_to_bf16
from deepshard.encoding import encode
from deepshard.errors import LocalError, UsageError
from deepshard.limits import MIB, TENSOR_DIMENSIONS_MAX
from deepshard.primitives import tagged_hash
from deepshard.shards.layout import ITEM_BYTES, row_elements, tensor_rows
from deepshard.shards.manifest import DType, TensorEntry, TensorSlice

Block = npt.NDArray[np.uint8]
"""Bytes [rows, bytes of a row] of a part of a tensor."""

INDEX_NAME: Final = "model.safetensors.index.json"
HEADER_BYTES_MAX: Final = 100_000_000
"""As the reference implementation."""
GATHER_BYTES_MAX: Final = 32 * MIB
"""Bands of columns are cut out of whole rows read at once up to this size, and read row by row above it."""
_DTYPES: Final[dict[str, DType]] = {"BF16": "bf16", "F16": "f16", "F32": "f32", "I8": "i8"}


class Source(Protocol):
    """Tensors that can be read in pieces, and the small files beside them."""

    @property
    def tensors(self) -> tuple[TensorEntry, ...]:
        """The table, by name."""
        ...

    @property
    def files(self) -> Mapping[str, bytes]:
        """Configuration and tokenizer."""
        ...

    @property
    def identity(self) -> bytes:
        """A digest that changes when the source may have: an import that was broken off goes on only under the same."""
        ...

    def read(self, part: TensorSlice) -> Block:
        """The elements of a slice; several threads may read at a time.

        Raises:
            LocalError: the file can't be read, or has become shorter.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's bytes lie."""

    entry: TensorEntry
    descriptor: int
    path: Path
    offset: int


class SafetensorsSource:
    """One or several safetensors files.

    Args:
        paths: the files; no tensor may be in two.
        directory: where configuration and tokenizer lie; None for none.
        as_bf16: whether f16 and f32 are read as bf16; rounding is to nearest, ties to even.
        skipped: tensors that are left out.
        files: configuration and tokenizer, instead of the directory's.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        directory: Path | None,
        *,
        as_bf16: bool = False,
        skipped: frozenset[str] = frozenset(),
        files: dict[str, bytes] | None = None,
    ) -> None:
        self._as_bf16 = as_bf16
        self._descriptors: list[int] = []
        places: dict[str, _Place] = {}
        marks: list[bytes] = []
        try:
            for path in paths:
                descriptor = _open(path)
                self._descriptors.append(descriptor)
                stat = os.fstat(descriptor)
                marks.append(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode())
                found = {place.entry.name: place for place in _places(descriptor, path, stat.st_size)}
                if twice := sorted(found.keys() & places.keys()):
                    raise UsageError(f"tensor {twice[0]} is in both {places[twice[0]].path.name} and {path.name}")  # noqa: TRY301
                places |= found
        except BaseException:
            self.close()
            raise
        self._places = [places[name] for name in sorted(places) if name not in skipped]
        self._files = files if files is not None else read_files(directory) if directory else {}
        if as_bf16 and files is None:
            self._files = _stating_bf16(self._files)
        self.tensors = tuple(self._stored(place.entry) for place in self._places)
        parts = [encode(self.tensors), *marks, *(name.encode() + data for name, data in sorted(self._files.items()))]
        self.identity = tagged_hash("import source", *parts)

    @property
    def files(self) -> Mapping[str, bytes]:
        """See `Source.files`."""
        return self._files

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def read(self, part: TensorSlice) -> Block:
        """See `Source.read`."""
        place = self._places[part.tensor]
        item = ITEM_BYTES[place.entry.dtype]
        stride = row_elements(place.entry) * item
        start, width = part.column_start * item, (part.column_count * item) or stride
        first = place.offset + part.row_start * stride
        if width == stride or part.row_count * stride <= GATHER_BYTES_MAX:
            block = self._pread(place, first, part.row_count * stride).reshape(part.row_count, stride)
            block = block[:, start : start + width]
        else:
            rows = [self._pread(place, first + row * stride + start, width) for row in range(part.row_count)]
            block = np.stack(rows)
        if self._as_bf16 and place.entry.dtype not in {"bf16", "i8"}:
            return bytes_to_bf16(block, place.entry.dtype)
        return block

    def _stored(self, entry: TensorEntry) -> TensorEntry:
        if not self._as_bf16 or entry.dtype == "i8":
            return entry
        return TensorEntry(entry.name, "bf16", entry.shape)

    @staticmethod
    def _pread(place: _Place, offset: int, size: int) -> Block:
        buffer = np.empty(size, np.uint8)
        view = buffer.data
        done = 0
        while done < size:
            try:
                count = os.preadv(place.descriptor, [view[done:]], offset + done)
            except OSError as error:
                raise LocalError(f"cannot read {place.path}: {error.strerror}") from error
            if count == 0:
                raise LocalError(f"{place.path} has become shorter while it was read")
            done += count
        return buffer


def open_safetensors(
    source: Path,
    *,
    as_bf16: bool = False,
    skipped: frozenset[str] = frozenset(),
    files: dict[str, bytes] | None = None,
) -> SafetensorsSource:
    """Open a safetensors file, or a directory that holds one, or several with or without an index.

    The options are those of `SafetensorsSource`.

    Raises:
        UsageError: there are no such files, one is broken, or the index and they contradict each other.
    """

    def opened(paths: Sequence[Path], directory: Path) -> SafetensorsSource:
        return SafetensorsSource(paths, directory, as_bf16=as_bf16, skipped=skipped, files=files)

    if source.is_file():
        return opened([source], source.parent)
    index = source / INDEX_NAME
    if index.is_file():
        listed = _read_index(index)
        found = opened([source / name for name in sorted(set(listed.values()))], source)
        if missing := sorted(listed.keys() - {entry.name for entry in found.tensors} - skipped):
            found.close()
            raise UsageError(f"{len(missing)} tensors of {index} are in none of its files, such as {missing[0]}")
        return found
    paths = sorted(path for path in source.iterdir() if path.name.endswith(".safetensors"))
    if not paths:
        raise UsageError(f"{source} holds no .safetensors file")
    return opened(paths, source)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _read_index(path: Path) -> dict[str, str]:
    try:
        listed = _json(path.read_bytes(), str(path))["weight_map"]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (KeyError, TypeError):
        raise UsageError(f"{path} has no weight_map") from None
    if not isinstance(listed, dict) or not listed:
        raise UsageError(f"the weight_map of {path} lists nothing")
    for tensor, name in listed.items():
        if not isinstance(name, str) or "/" in name or "\\" in name or name.startswith(".") or not name:
            raise UsageError(f"{path} says that {tensor} is in {name!r}, which is no name of a file beside it")
    return listed


def _places(descriptor: int, path: Path, size: int) -> list[_Place]:
    if size < 8:
        raise UsageError(f"{path} is {size} bytes: no safetensors file")
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if length > min(HEADER_BYTES_MAX, size - 8):
        raise UsageError(f"{path} is no safetensors file: it declares a header of {length} bytes, and is {size} long")
    header = _json(os.pread(descriptor, length, 8), str(path))
    if not isinstance(header, dict):
        raise UsageError(f"the header of {path} is no JSON object")
    spans = sorted(
        (_span(path, name, stated, size - 8 - length) for name, stated in header.items() if name != "__metadata__"),
        key=lambda span: span[1:],
    )
    end = 0
    for entry, start, stop in spans:
        if start != end:
            what = "overlap" if start < end else "leave a gap"
            raise UsageError(f"{path} is broken: the bytes of tensor {entry.name} and those before it {what}")
        end = stop
    if end != size - 8 - length:
        raise UsageError(f"{path} is broken: its tensors end at byte {end} of {size - 8 - length}")
    return [_Place(entry, descriptor, path, 8 + length + start) for entry, start, _ in spans]


def _span(path: Path, name: str, stated: Any, size: int) -> tuple[TensorEntry, int, int]:
    kind = stated.get("dtype") if isinstance(stated, dict) else None
    if isinstance(kind, str) and kind not in _DTYPES:
        raise UsageError(
            f"tensor {name[:80]!r} of {path} is of type {kind[:16]}, which isn't stored: only {', '.join(_DTYPES)} are"
        )
    try:
        entry = msgspec.convert([name, _DTYPES[kind], stated["shape"]], TensorEntry)  # type: ignore[index]
        start, stop = msgspec.convert(stated["data_offsets"], tuple[int, int])
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise UsageError(f"tensor {name[:80]!r} of {path} is not described as it has to be: {error}") from None
    if len(entry.shape) > TENSOR_DIMENSIONS_MAX:
        raise UsageError(
            f"tensor {name} of {path} has {len(entry.shape)} dimensions, more than {TENSOR_DIMENSIONS_MAX}"
        )
    needed = math.prod(entry.shape) * ITEM_BYTES[entry.dtype]
    assert needed == tensor_rows(entry) * row_elements(entry) * ITEM_BYTES[entry.dtype]
    if not 0 <= start <= stop <= size or stop - start != needed:
        raise UsageError(
            f"tensor {name} of {path} needs {needed} bytes for its shape, its place is {start} to {stop} of {size}"
        )
    return entry, start, stop


def _json(data: bytes, what: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise UsageError(f"{what} lists a name twice")
        return found

    try:
        return json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the header of {what} is no JSON: {str(error)[:120]}") from None


def _stating_bf16(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same with a configuration that says what type the weights have now."""
    if "config.json" not in files:
        return files
    config = _json(files["config.json"], "config.json")
    if not isinstance(config, dict):
        raise UsageError("config.json is no JSON object")
    name = "torch_dtype" if "torch_dtype" in config else "dtype"
    if config.get(name) == "bfloat16":
        return files
    config[name] = "bfloat16"
    return {**files, "config.json": (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()}
