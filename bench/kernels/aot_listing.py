"""Reads a compiled kernel's listing: SASS as nvdisasm prints it, or the assembly of gfx942."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_SASS: Final = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?);")
_GCN: Final = re.compile(r"^\s+([a-z][a-z0-9_]+)\s*([^;]*)")
_LABEL: Final = re.compile(r"^\s*(\.L\w+):")
_TARGET: Final = re.compile(r"(\.L\w+)")

TENSOR_CORE: Final = re.compile(r"^(HMMA|HGMMA|UTC[A-Z]*MMA|IMMA|v_mfma)")
LOCAL: Final = re.compile(r"^(LDL|STL|scratch_)")
# An exchange publishes a tensor map that the kernel wrote (PTX tensormap.cp_fenceproxy); nothing is summed by one.
ATOMIC: Final = re.compile(r"^(ATOM|ATOMG|RED|REDG)\.(?!E\.EXCH)|^(ATOM|ATOMG|RED|REDG)$|^(global|buffer|flat)_atomic")
_SASS_LOAD: Final = re.compile(r"^(LDG|LDGSTS)\b")
_SASS_WIDTHS: Final = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_GCN_LOAD: Final = re.compile(r"^(?:global|buffer)_load_(?:lds_)?(\w+?)(?:_d16\w*)?$")
_GCN_WIDTHS: Final = {
    "dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "ushort": 2, "sshort": 2, "short": 2, "ubyte": 1, "sbyte": 1
}  # fmt: skip
TMA_BYTES: Final = 128
"""A bulk load counts with more than any other width."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Opcodes in order, and the loops as ranges of their positions."""

    opcodes: tuple[str, ...]
    loops: tuple[tuple[int, int], ...]

    def inner_loop(self) -> tuple[str, ...]:
        """Opcodes of the shortest loop with a tensor-core instruction in it; of the shortest loop of all, if none."""
        bodies = sorted((self.opcodes[first:end] for first, end in self.loops), key=len)
        return next((body for body in bodies if count(body, TENSOR_CORE)), bodies[0] if bodies else ())


def read(text: str) -> Listing:
    """The instructions of a listing, and a loop for every branch back to a label."""
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    loops = []
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(opcodes)
            continue
        found = _SASS.match(line) or _GCN.match(line)
        if not found:
            continue
        opcodes.append(found[1])
        if found[1].startswith(("BRA", "s_cbranch", "s_branch")) and (target := _TARGET.search(found[2])):
            first = labels.get(target[1])
            if first is not None:
                loops.append((first, len(opcodes)))
    return Listing(tuple(opcodes), tuple(loops))


def count(opcodes: Sequence[str], pattern: re.Pattern[str]) -> int:
    return sum(1 for opcode in opcodes if pattern.match(opcode))


def load_widths(opcodes: Sequence[str]) -> dict[int, int]:
    """How many loads from global memory have how many bytes a thread; bulk loads under `TMA_BYTES`."""
    widths: dict[int, int] = {}
    for opcode in opcodes:
        width = _width(opcode)
        if width:
            widths[width] = widths.get(width, 0) + 1
    return dict(sorted(widths.items()))


def _width(opcode: str) -> int:
    if opcode.startswith("UTMALDG"):
        return TMA_BYTES
    if _SASS_LOAD.match(opcode):
        return next((_SASS_WIDTHS[part] for part in opcode.split(".") if part in _SASS_WIDTHS), 4)
    found = _GCN_LOAD.match(opcode)
    return _GCN_WIDTHS.get(found[1], 0) if found else 0


def wide_share(widths: dict[int, int]) -> float:
    """Share of the loaded bytes that come 16 at a time or in bulk; 1 without loads."""
    total = sum(width * times for width, times in widths.items())
    return sum(width * times for width, times in widths.items() if width >= 16) / total if total else 1.0
