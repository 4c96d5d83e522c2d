"""Contenders timed in turns, and the rate at which this machine multiplies matrices that stay in its caches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from kernels.cpu_lanes import in_lanes


def seconds_of(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def in_turns(contenders: Mapping[str, Callable[[], object]], *, runs: int) -> dict[str, list[float]]:
    """Seconds of each, round by round, after one round that isn't counted."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(runs + 1):
        for name, function in contenders.items():
            taken = seconds_of(function)
            if turn:
                found[name].append(taken)
    return found


def ratios(seconds: Mapping[str, list[float]], above: str, below: str) -> list[float]:
    """`above` over `below`, round by round."""
    return [one / other for one, other in zip(seconds[above], seconds[below], strict=True)]


def product_in_cache(width: int, *, multiplies: int) -> Callable[[], None]:
    """A function that does `multiplies` fp32 multiply-adds in products of 512 x `width` x 512, on the same data always.

    Each lane multiplies on its own, so that no barrier is in the way: there is no faster way to that many products.
    """
    lanes = torch.get_num_threads()
    times = round(multiplies / (512 * 512 * width * lanes))
    data = [(torch.randn(512, width), torch.randn(512, width), torch.empty(512, 512)) for _ in range(lanes)]

    def multiply(operands: tuple[Tensor, Tensor, Tensor]) -> None:
        left, right, out = operands
        for _ in range(times):
            torch.mm(left, right.T, out=out)

    def multiply_all() -> None:
        in_lanes(multiply, data)

    return multiply_all


def extra_memory(function: Callable[[], object]) -> float:
    """MB resident at a call's peak beyond those before it; 0 where the system can't say (other than Linux)."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not os.access(reset, os.W_OK):
        return 0.0
    reset.write_text("5")
    before = resident(status.read_text(), "VmRSS")
    function()
    return (resident(status.read_text(), "VmHWM") - before) / 1e6


def resident(status: str, name: str) -> int:
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))
