"""What a fuzz harness is, how inputs are read and mutated, and where corpora lie.

The invariant of every harness: whatever the bytes are, the decoder gives a value (or events), or raises the error of
its room (`RemoteError` for what peers send, `UsageError` for files and texts of people). Any other exception, memory
beyond the bound, or an input that takes longer than the time limit is a finding.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from deepshard.errors import DeepshardError, RemoteError
from deepshard.limits import MIB

FOLDER: Final = Path(__file__).parent
CORPUS: Final = FOLDER / "corpus"
sys.path += [str(FOLDER.parent / room) for room in ("consensus", "ledger", "wire")]  # their test networks make seeds


Shape = Literal["bytes", "record", "chunks"]


@dataclass(frozen=True, slots=True)
class Harness:
    """A decoder under test. `check` takes any bytes; `seeds` makes the corpus from valid objects, always the same."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Mapping[str, bytes]]
    refuses: type[DeepshardError] = RemoteError
    input_bytes_max: int = 16 * 1024
    memory_bytes_max: int = 8 * MIB
    """What one input may take, measured by tracemalloc, beyond what lives already."""
    prefix_bytes: int = 0
    """Bytes before the record or the chunks."""
    shape: Shape = "bytes"
    """What the rest of an input is: it is also mutated value by value, or chunk by chunk."""

    def run(self, data: bytes) -> bool:
        """Whether the bytes were accepted; anything but the documented error gets through."""
        try:
            self.check(data)
        except self.refuses:
            return False
        return True


def names() -> list[str]:
    """All harnesses there are."""
    return sorted(path.stem.removeprefix("fuzz_") for path in FOLDER.glob("fuzz_*.py"))


def load(name: str) -> Harness:
    """The harness in `fuzz_NAME.py`."""
    found = importlib.import_module(f"fuzz_{name}").HARNESS
    assert isinstance(found, Harness)
    return found


def corpus(name: str) -> dict[str, bytes]:
    """Committed inputs of a harness, by file name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).iterdir())}


class Reader:
    """Takes an input apart: fields of fixed size first, then chunks with a length before each."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes; fewer at the end."""
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def number(self, size: int = 1) -> int:
        """The next integer, little-endian; 0 at the end."""
        return int.from_bytes(self.take(size), "little")

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))

    def chunk(self) -> bytes:
        """A length of two bytes, and so many bytes."""
        return self.take(self.number(2))

    def chunks(self) -> Iterator[bytes]:
        """Chunks to the end."""
        while self._at < len(self._data):
            yield self.chunk()


def chunked(*parts: bytes) -> bytes:
    """What `Reader.chunks` takes apart."""
    return b"".join(len(part).to_bytes(2, "little") + part for part in parts)


_INTERESTING: Final = tuple(
    value.to_bytes(size, order, signed=False)
    for size in (1, 2, 4, 8)
    for value in (0, 1, 0x7F, 0x80, (1 << 8 * size) - 1, 1 << (8 * size - 1), (1 << (8 * size - 1)) - 1)
    if value < 1 << 8 * size
    for order in ("little", "big")
)
_HEADS: Final = tuple(bytes.fromhex(head) for head in ("c4ff", "c6ffffffff", "ddffffffff", "dfffffffff", "c0", "cb"))
"""MessagePack: lengths far beyond the data, and types that don't belong."""


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A few changes of the kinds that fuzzers make: bits, bytes, known bad values, cuts, repeats, and splices."""
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(mutated) + 1)
        size = rng.choice((1, 2, 4, 8, 16, 32))
        match rng.randrange(7):
            case 0 if at < len(mutated):
                mutated[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(mutated):
                mutated[at] = rng.randrange(256)
            case 2:
                value = rng.choice(_INTERESTING + _HEADS)
                mutated[at : at + len(value)] = value
            case 3:
                del mutated[at : at + size]
            case 4:
                mutated[at:at] = mutated[at : at + size]
            case 5:
                start = rng.randrange(len(other) + 1)
                mutated[at : at + size] = other[start : start + size]
            case _:
                mutated[at:at] = rng.randbytes(size)
    return bytes(mutated)


def mutate_record(data: bytes, rng: random.Random) -> bytes:
    """One value inside an encoded record changed, the encoding kept canonical; other bytes as `mutate` does."""
    try:
        value = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return mutate(data, data[::-1], rng)
    return msgspec.msgpack.encode(_changed(value, rng))


def mutate_chunks(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One chunk changed, repeated, left out, moved, or taken from another input."""
    chunks, others = list(Reader(data).chunks()), list(Reader(other).chunks())
    at = rng.randrange(len(chunks) + 1)
    match rng.randrange(8):
        case 0:
            del chunks[at : at + 1]
        case 1 if others:
            chunks.insert(at, rng.choice(others))
        case 2 if chunks:
            chunks.insert(at, rng.choice(chunks))
        case _ if chunks:
            at = min(at, len(chunks) - 1)
            chunks[at] = mutate_record(chunks[at], rng)
    return chunked(*(chunk[:0xFFFF] for chunk in chunks))


def _changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, list) and value and rng.random() < 0.9:
        changed = list(value)
        at = rng.randrange(len(value))
        match rng.randrange(12):
            case 0:
                del changed[at]
            case 1:
                changed.insert(at, changed[rng.randrange(len(value))])
            case 2:
                changed[at] = changed[rng.randrange(len(value))]
            case _:
                changed[at] = _changed(value[at], rng)
        return changed
    match value:
        case bool():
            return not value
        case int():
            near = value + rng.randrange(-2, 3)
            edge = 2 ** rng.choice((7, 8, 15, 16, 31, 32, 40, 62, 63)) - rng.randrange(2)
            return max(-(2**63), min(2**64 - 1, rng.choice((near, edge, -edge, 0))))
        case bytes() if value and rng.random() < 0.7:
            at = rng.randrange(len(value))
            return value[:at] + bytes((value[at] ^ 1 << rng.randrange(8),)) + value[at + 1 :]
        case bytes():
            return mutate(value, value[::-1], rng)
        case str():
            return mutate(value.encode(), b"a\n\xc3\x9f", rng).decode(errors="replace")
        case _:
            return rng.choice((None, 0, b"", "", [], {}, 1.5))


def mutated(harness: Harness, data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A mutation that knows the input's shape, or one that doesn't."""
    at = harness.prefix_bytes
    if harness.shape == "record" and rng.random() < 0.8:
        data = data[:at] + mutate_record(data[at:], rng)
    elif harness.shape == "chunks" and rng.random() < 0.8:
        data = data[:at] + mutate_chunks(data[at:], other[at:], rng)
    else:
        data = mutate(data, other, rng)
    return data[: harness.input_bytes_max]


def mutations(name: str, harness: Harness, count: int) -> Iterator[bytes]:
    """The corpus, then mutations of it and of one another; they depend on nothing but the harness's name."""
    inputs = list(corpus(name).values())
    yield from inputs
    rng = random.Random(f"fuzz {name}")
    changed: list[bytes] = []
    for _ in range(count):
        source = rng.choice(changed if changed and rng.random() < 0.25 else inputs)
        data = mutated(harness, source, rng.choice(inputs), rng)
        if rng.random() < 0.1:
            changed.append(data)
        yield data
