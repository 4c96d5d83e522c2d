"""Configurations that a tuning run found fastest, kept in one JSON file for all devices.

The file is `$DEEPSHARD_KERNELS_TUNED`, or `deepshard/kernels.json` in the user's cache folder. It is read once; a
device without entries uses the defaults. Configurations change speed only: none of them changes the order of a sum.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch


def path() -> Path:
    """The file of tuned configurations."""
    named = os.environ.get("DEEPSHARD_KERNELS_TUNED")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepshard" / "kernels.json"


def lookup(op: str, key: tuple[int | str, ...]) -> tuple[int, ...] | None:
    """The configuration kept for this op and key on this device."""
    found = _read(path()).get(_name(op, key))
    return None if found is None else tuple(found)


def keep(op: str, key: tuple[int | str, ...], config: Sequence[int]) -> None:
    """Write a configuration beside those that are there."""
    place = path()
    place.parent.mkdir(parents=True, exist_ok=True)
    found = {**_read(place), _name(op, key): list(config)}
    place.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    _read.cache_clear()


@cache
def _read(place: Path) -> dict[str, list[int]]:
    try:
        found = json.loads(place.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{place} holds no tuned configurations: {error}; remove it to tune again") from None
    return {name: [int(size) for size in config] for name, config in found.items()}


def _name(op: str, key: tuple[int | str, ...]) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return " ".join(map(str, (device, op, *key)))
