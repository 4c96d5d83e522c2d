"""Reads the chapters of the specification: their tables, and the notation of fields (2.3)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

import msgspec

from deepshard import limits

SPEC: Final = Path(__file__).parents[2] / "protocol-spec"
Shape = tuple[Any, ...]
"""A type as nested tuples, such as ("int", 0, 7) or ("list", 0, None, ("bytes", 32, 32))."""

_NAMED: Final[dict[str, Shape]] = {
    "Digest": ("bytes", 32, 32),
    "PublicKey": ("bytes", 32, 32),
    "Signature": ("bytes", 64, 64),
    "Address": ("bytes", 20, 20),
    "Height": ("int", 0, 2**62),
    "Amount": ("int", 0, 2**62),
    "RequestId": ("int", 0, 2**62),
    "Count": ("int", 0, 2**31 - 1),
    "Round": ("int", 0, 2**31 - 1),
    "ValidRound": ("int", -1, 2**31 - 1),
    "BasisPoints": ("int", 0, 10_000),
    "Millinats": ("int", -(2**40), 2**40),
    "int": ("int", None, None),
    "bool": ("bool",),
    "bytes": ("bytes", 0, None),
    "str": ("str", 0, None),
    "AxisScores": ("tuple", *[("int", 0, 10_000)] * 5),
}


def rows(chapter: str, *header: str) -> Iterator[dict[str, str]]:
    """Rows of every table of a chapter that has exactly these columns, by column."""
    columns: tuple[str, ...] = ()
    found = False
    for line in (SPEC / f"{chapter}.md").read_text(encoding="utf-8").splitlines():
        cells = tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        if not line.startswith("|"):
            columns = ()
        elif not columns:
            columns = cells
            found = found or columns == header
        elif columns == header and set(line) - set("|- :"):
            yield dict(zip(columns, cells, strict=True))
    if not found:
        raise LookupError(f"{chapter} has no table with the columns {header}")


def number(text: str) -> int:
    """A bound: a number, a power, or the name of a limit, with a divisor at most."""
    text = text.strip()
    if "/" in text:
        dividend, divisor = text.split("/")
        return number(dividend) // number(divisor)
    if text.startswith("-"):
        return -number(text[1:])
    if "^" in text:
        base, exponent = text.split("^")
        power: int = int(base) ** int(exponent)
        return power
    value: int = getattr(limits, text) if text[0].isalpha() else int(text)
    return value


def parse_fields(text: str, named: Mapping[str, Shape] | None = None) -> list[tuple[str, Shape]]:
    """Names and shapes of the fields that a table names: `request RequestId, digests list(0..9) of Digest`.

    `named` gives shapes to names of the chapter's own, such as enumerations of texts.
    """
    known = {**_NAMED, **(named or {})}
    if text in {"", "none"}:
        return []
    fields = []
    for field in _split(text):
        name, _, kind = field.partition(" ")
        fields.append((name, parse_type(kind, known)))
    return fields


def _split(text: str) -> list[str]:
    """Parts between the commas that aren't inside parentheses."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()]


def parse_type(text: str, named: Mapping[str, Shape]) -> Shape:
    """The shape of one type in the notation of 2.3."""
    text = text.strip()
    if text.endswith(" or none"):
        return ("optional", parse_type(text.removesuffix(" or none"), named))
    if text.startswith("("):
        return ("tuple", *(parse_type(part, named) for part in _split(text[1:-1])))
    bounded = re.fullmatch(r"(bytes|str|int|list)\((.+?)\.\.(.+?)\)(?: of (.+))?", text)
    if bounded:
        kind, low, high, of = bounded.groups()
        bounds = (number(low), None if high == "any" else number(high))
        return (kind, *bounds, parse_type(of, named)) if of else (kind, *bounds)
    if text.startswith("list of "):
        return ("list", 0, None, parse_type(text.removeprefix("list of "), named))
    return named.get(text, ("named", text))


def shape_of_fields(struct: type[msgspec.Struct]) -> list[tuple[str, Shape]]:
    """Names and shapes of a record's fields in the code."""
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    return [(field.name, _shape(field.type)) for field in info.fields]


def _shape(info: msgspec.inspect.Type) -> Shape:
    inspect = msgspec.inspect
    match info:
        case inspect.Metadata(type=inner):
            return _shape(inner)
        case inspect.BoolType():
            return ("bool",)
        case inspect.IntType(ge=low, le=high):
            return ("int", low, high)
        case inspect.BytesType(min_length=low, max_length=high):
            return ("bytes", low or 0, high)
        case inspect.StrType(min_length=low, max_length=high):
            return ("str", low or 0, high)
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            return ("list", low or 0, high, _shape(item))
        case inspect.TupleType(item_types=items):
            return ("tuple", *map(_shape, items))
        case inspect.StructType(cls=cls) | inspect.EnumType(cls=cls):
            return ("named", cls.__name__)
        case inspect.LiteralType(values=values):
            return ("texts", *sorted(map(str, values)))
        case inspect.UnionType(types=types):
            return _shape_of_union([member for member in types if not isinstance(member, inspect.NoneType)])
    raise AssertionError(f"no notation for {info}")


def _shape_of_union(members: list[msgspec.inspect.Type]) -> Shape:
    if len(members) == 1:
        return ("optional", _shape(members[0]))
    names = [member.cls.__name__ for member in members if isinstance(member, msgspec.inspect.StructType)]
    return ("one of", *sorted(names)) if len(names) == len(members) else ("mixed", *map(_shape, members))


def enumeration_text(enum: type[Enum]) -> str:
    """How a table writes an enumeration with numbers: `0 FOUND, 1 NOT_FOUND`."""
    return ", ".join(f"{member.value} {member.name}" for member in enum)
