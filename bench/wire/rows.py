"""Rows of the table: a measured value, what it has to reach, and what the machine allows beside it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """`at_least` says on which side of the target the value has to be; `beside` is for comparison only."""

    name: str
    value: float
    unit: str
    target: float
    at_least: bool
    beside: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return self.value >= self.target if self.at_least else self.value < self.target


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest."""
    return median(values), min(values), max(values)


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return {"processor": name, "cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}


def show(rows: Sequence[Row]) -> None:
    """Print the table, with what stands beside a row below it."""
    width = max(len(row.name) for row in rows)
    print(f"{'':{width}}  {'measured':>10}  {'target':>10}  unit")
    for row in rows:
        sign = ">=" if row.at_least else "<"
        verdict = "met" if row.met else "not met"
        print(f"{row.name:{width}}  {row.value:>10,.6g}  {f'{sign} {row.target:g}':>10}  {row.unit:11} {verdict}")
        for name, value in row.beside.items():
            print(f"{'':{width}}    {name}: {value:,.4g}")


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """The same for programs."""
    return {"machine": machine(), "rows": [{**asdict(row), "met": row.met} for row in rows]}
