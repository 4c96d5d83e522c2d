"""A vector file: its form, its cases, and the one way to write it as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import groupby
from typing import Any, Final

import msgspec

from deepshard.encoding import encode
from deepshard.identity import SecretKey
from deepshard.primitives import tagged_hash

Json = dict[str, Any]
INTEGER_MAX: Final = 2**53 - 1
"""Larger integers are written as decimal strings: a double holds no more."""
_LINE: Final = 116
_SPELLED: Final = 1024
"""Longer bytes are written as runs where they have any to speak of."""


def document(name: str, description: str, cases: Iterable[Json], **shared: Any) -> Json:  # noqa: ANN401
    """The whole of a file; `shared` is what several cases refer to."""
    listed = list(cases)
    names = [case["name"] for case in listed]
    assert len(set(names)) == len(names), sorted({one for one in names if names.count(one) > 1})
    return {
        "format": f"deepshard vectors {name} v1",
        "description": description,
        **{key: plain(value) for key, value in shared.items()},
        "cases": listed,
    }


def accept(name: str, clauses: Sequence[str], **fields: Any) -> Json:  # noqa: ANN401
    """A case that has to go well and to give what `fields` list."""
    return {"name": name, "clauses": list(clauses), **_plain_fields(fields), "expect": "ok"}


def refuse(
    name: str,
    clauses: Sequence[str],
    error: str,
    *,
    why: str = "",
    facts: Json | None = None,
    **fields: Any,  # noqa: ANN401
) -> Json:
    """A case that has to end with the error of this name, and with `facts` besides."""
    reason = {"why": why} if why else {}
    expect = {"error": error, **_plain_fields(facts or {})}
    return {"name": name, "clauses": list(clauses), **reason, **_plain_fields(fields), "expect": expect}


def _plain_fields(fields: Mapping[str, Any]) -> Json:
    return {key: plain(value) for key, value in fields.items()}


def plain(value: Any) -> Any:  # noqa: ANN401
    """`value` as JSON: bytes in hex, records as objects by field (tagged ones with `type`), large integers as text."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, bytes | bytearray | memoryview):
        return spell(bytes(value))
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > INTEGER_MAX:
        return str(value)
    if isinstance(value, msgspec.Struct):
        tag = type(value).__struct_config__.tag
        fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return {"type": tag, **fields} if tag is not None else fields
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def positional(value: Any) -> Any:  # noqa: ANN401
    """Like `plain`, but a record is the list of its values, as it is encoded."""
    if isinstance(value, msgspec.Struct):
        tag = type(value).__struct_config__.tag
        values = [positional(getattr(value, name)) for name in value.__struct_fields__]
        return values if tag is None else [tag, *values]
    if isinstance(value, list | tuple):
        return [positional(one) for one in value]
    return plain(value)


def spell(data: bytes) -> Any:  # noqa: ANN401
    """Hex; long and repetitive bytes as `{"runs": [[hex, times], ...]}`."""
    if len(data) <= _SPELLED:
        return data.hex()
    runs: list[list[Any]] = []
    literal = b""
    for value, group in groupby(data):
        times = sum(1 for _ in group)
        if times < 64:
            literal += bytes([value]) * times
            continue
        if literal:
            runs.append([literal.hex(), 1])
            literal = b""
        runs.append([f"{value:02x}", times])
    if literal:
        runs.append([literal.hex(), 1])
    return data.hex() if len(runs) == 1 and runs[0][1] == 1 else {"runs": runs}


def unspell(text: Any) -> bytes:  # noqa: ANN401
    """Invert `spell`."""
    if isinstance(text, str):
        return bytes.fromhex(text)
    return b"".join(bytes.fromhex(part) * times for part, times in text["runs"])


def render(value: Any, depth: int = 0) -> str:  # noqa: ANN401
    """JSON text: what fits a line stays on one, everything else is opened up, one space for each level."""
    compact = json.dumps(value)
    if len(compact) + depth <= _LINE or not isinstance(value, dict | list) or not value:
        return compact
    inner, outer = "\n" + " " * (depth + 1), "\n" + " " * depth
    if isinstance(value, list):
        if all(isinstance(one, int) for one in value):
            return "[" + inner + _wrapped(value, inner) + outer + "]"
        return "[" + inner + ("," + inner).join(render(one, depth + 1) for one in value) + outer + "]"
    members = (f"{json.dumps(key)}: {render(one, depth + 1)}" for key, one in value.items())
    return "{" + inner + ("," + inner).join(members) + outer + "}"


def _wrapped(numbers: Sequence[int], inner: str) -> str:
    """Numbers, as many on a line as fit."""
    lines: list[str] = []
    for number in numbers:
        text = str(number)
        if lines and len(lines[-1]) + len(text) + 2 + len(inner) <= _LINE:
            lines[-1] += f", {text}"
        else:
            lines.append(text)
    return ("," + inner).join(lines)


def key_of(name: str) -> SecretKey:
    """The key that all vectors mean by this name."""
    return SecretKey(tagged_hash("vector key", name.encode()))


def digest_of(name: str) -> bytes:
    """32 bytes that all vectors mean by this name."""
    return tagged_hash("vector digest", name.encode())


def size_of(value: object) -> int:
    """Bytes of the canonical encoding."""
    return len(encode(value))
