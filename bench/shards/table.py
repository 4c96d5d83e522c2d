"""Rows of the table. A row without a value says why it has none; one without a target is for comparison."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from bench.wire.rows import machine as processor

LIBRARIES: Final = ("zipnn", "libtorrent", "iroh", "shardcast", "zstandard", "numpy", "blake3", "torch", "transformers")
"""Whose versions stand beside the numbers."""


@dataclass(frozen=True, slots=True)
class Row:
    """`at_least` says on which side of the target the value has to be; `beside` is for comparison only."""

    name: str
    value: float | None
    unit: str
    target: float | None = None
    at_least: bool = True
    beside: dict[str, float | str] = field(default_factory=dict)
    missing: str = ""
    """Why there is no value: a package that isn't installed, a part that isn't built."""

    def __post_init__(self) -> None:
        assert (self.value is None) == bool(self.missing), "a row has a value or a reason why it has none"

    @property
    def met(self) -> bool:
        if self.target is None:
            return self.value is not None
        if self.value is None:
            return False
        return self.value >= self.target if self.at_least else self.value <= self.target


def not_measured(name: str, unit: str, why: str, *, target: float | None = None, at_least: bool = True) -> Row:
    """A row that can't be measured here; it counts as not met."""
    return Row(name, None, unit, target, at_least, missing=why)


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    memory = Path("/proc/meminfo")
    kilobytes = int(memory.read_text().split()[1]) if memory.exists() else 0
    return {
        **processor(),
        "system": platform.platform(),
        "memory_gb": round(kilobytes * 1024 / 1e9, 1),
        "disk_free_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def show(rows: Sequence[Row]) -> None:
    """Print the table, with what stands beside a row below it."""
    width = max((len(row.name) for row in rows), default=0)
    print(f"{'':{width}}  {'measured':>10}  {'target':>10}  unit")
    for row in rows:
        sign = ">=" if row.at_least else "<="
        target = "" if row.target is None else f"{sign} {row.target:g}"
        value = "-" if row.value is None else f"{row.value:,.4g}"
        verdict = row.missing or ("" if row.target is None else "met" if row.met else "not met")
        print(f"{row.name:{width}}  {value:>10}  {target:>10}  {row.unit:8} {verdict}")
        for name, beside in row.beside.items():
            text = beside if isinstance(beside, str) else f"{beside:,.4g}"
            print(f"{'':{width}}    {name}: {text}")


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """The same for programs."""
    return {"machine": machine(), "rows": [{**asdict(row), "met": row.met} for row in rows]}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
