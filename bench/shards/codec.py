"""The codec on real bf16 weights beside ZipNN (arXiv 2411.05239), in one process and with as many threads.

Shards of some 2 MiB go through a pool of threads, as import and loading do it, and what comes out is dropped. ZipNN
gets the same shards in the same pool, and the model as one buffer, which it cuts and spreads over threads itself; the
better of the two is compared with. Neither side hashes. That everything decodes to what went in is checked apart.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Protocol, TypeVar

from deepshard.shards.codec import Spans, decode_shard, encode_shard

from .models import gemma3, random_bf16, smollm2
from .table import Row, not_measured

T = TypeVar("T")


class _Zipnn(Protocol):
    def compress(self, data: bytearray) -> bytes: ...

    def decompress(self, data: bytes) -> bytes: ...


class _ZipnnOfThread(threading.local):
    """Each thread has its own: one that threads share keeps what it read of a header in itself, and has crashed."""

    def __init__(self) -> None:
        self._one = _zipnn(1)

    def compress(self, data: bytearray) -> bytes:
        return self._one.compress(data)

    def decompress(self, data: bytes) -> bytes:
        return self._one.decompress(data)


def codec_rows(quick: bool) -> list[Row]:  # noqa: FBT001  # as every row of the table
    if quick:
        return _compared("noise", [random_bf16(1 << 21, seed) for seed in range(4)], runs=1)
    rows: list[Row] = []
    for name, weights in (("SmolLM2", smollm2()), ("Gemma-3 270M", gemma3())):
        if weights is None:
            rows.append(not_measured(f"{name}: codec", "ratio", "its package is not installed"))
        else:
            rows += _compared(name, weights.decoded, runs=5)
    return rows


def _compared(name: str, shards: list[bytes], *, runs: int) -> list[Row]:
    size, whole = sum(map(len, shards)), b"".join(shards)
    if find_spec("zipnn") is None:
        why = "zipnn is not installed: pip install --group bench"
        names = ("size", "decode speed", "encode speed")
        return [not_measured(f"{name}: {what}, to ZipNN", "ratio", why) for what in names]
    threads = len(os.sched_getaffinity(0))
    one, many = _ZipnnOfThread(), _zipnn(threads)
    chunks = [_encode(shard) for shard in shards]
    pieces = [one.compress(bytearray(shard)) for shard in shards]
    packed = many.compress(bytearray(whole))  # a copy, since it reorders its input in place
    assert all(bytes(_decode(chunk, len(shard))) == shard for chunk, shard in zip(chunks, shards, strict=True))
    assert bytes(many.decompress(packed)) == whole
    sizes = [len(shard) for shard in shards]
    timed: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}
    with ThreadPoolExecutor(threads) as pool:
        ways: dict[str, Callable[[], object]] = {
            "encode": lambda: _each(pool, _encode, shards),
            "encode, ZipNN, shards": lambda: _each(pool, lambda shard: one.compress(bytearray(shard)), shards),
            "encode, ZipNN, one buffer": lambda: many.compress(bytearray(whole)),
            "decode": lambda: _each(pool, lambda pair: _decode(*pair), list(zip(chunks, sizes, strict=True))),
            "decode, ZipNN, shards": lambda: _each(pool, one.decompress, pieces),
            "decode, ZipNN, one buffer": lambda: many.decompress(packed),
        }
        for _ in range(runs):  # in turns, so that whatever else the machine does falls on all
            for way, call in ways.items():
                started, before = time.perf_counter(), time.process_time()
                call()
                timed.setdefault(way, []).append(time.perf_counter() - started)
                used.setdefault(way, []).append(time.process_time() - before)
    ours, theirs = sum(map(len, chunks)) / size, min(len(packed), sum(map(len, pieces))) / size
    beside: dict[str, float | str] = {"share of the weights": ours, "ZipNN's": theirs, "MB": size / 1e6}
    return [
        Row(f"{name}: size, to ZipNN", ours / theirs, "ratio", 1.02, at_least=False, beside=beside),
        _speed_row(f"{name}: decode speed, to ZipNN", "decode", timed, size, 1.0),
        _speed_row(f"{name}: encode speed, to ZipNN", "encode", timed, size, None),
        # What other work on the machine does to the clock it doesn't do to the time that a processor was used.
        _speed_row(f"{name}: decode, by processor time", "decode", used, size, None),
        _speed_row(f"{name}: encode, by processor time", "encode", used, size, None),
    ]


def _speed_row(name: str, what: str, timed: dict[str, list[float]], size: int, target: float | None) -> Row:
    anchors = [seconds for way, seconds in timed.items() if way.startswith(f"{what}, ")]
    ratio = median(min(theirs) / ours for ours, *theirs in zip(timed[what], *anchors, strict=True))
    beside: dict[str, float | str] = {
        f"{way} (GB/s)": size / median(seconds) / 1e9 for way, seconds in timed.items() if way.startswith(what)
    }
    return Row(name, ratio, "ratio", target, beside=beside)


def _spans(size: int) -> Spans:
    return [("bf16", size)]


def _encode(shard: bytes) -> bytes:
    return encode_shard(shard, _spans(len(shard)), "planes")


def _decode(chunk: bytes, size: int) -> memoryview:
    return decode_shard(chunk, _spans(size), "planes")


def _each(pool: ThreadPoolExecutor, coder: Callable[[T], object], parts: Sequence[T]) -> None:
    def drop(part: T) -> None:
        coder(part)

    list(pool.map(drop, parts))


def _zipnn(threads: int) -> _Zipnn:
    made: _Zipnn = import_module("zipnn").ZipNN(bytearray_dtype="bfloat16", input_format="byte", threads=threads)
    return made
