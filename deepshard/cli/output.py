"""How answers look: tables on a terminal, aligned plain lines elsewhere, JSON when asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from deepshard.primitives import format_amount

_AMOUNTS: Final = frozenset(
    {
        "balance",
        "locked",
        "unbonding",
        "bonded",
        "stake",
        "amount",
        "paid",
        "price",
        "licence_price",
        "genesis",
        "slashed",
    }
    | {"minted", "burned", "treasury", "total"}
)
Row = Mapping[str, Any]


def show_json(value: object) -> None:
    """The node's answer, as it is."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def show_fields(value: Row) -> None:
    """One thing: a line for each field, nested ones with dotted names."""
    show_rows(("", ""), list(_flattened("", value)), header=False)


def show_table(columns: Mapping[str, str], rows: Sequence[Row], *, empty: str) -> None:
    """Many things: a line each. `columns` maps a field (dotted where nested) to its heading."""
    if not rows:
        sys.stdout.write(empty + "\n")
        return
    cells = [tuple(_text(field.rpartition(".")[2], _lookup(row, field)) for field in columns) for row in rows]
    show_rows(tuple(columns.values()), cells)


def show_rows(headings: Sequence[str], rows: Sequence[Sequence[str]], *, header: bool = True) -> None:
    """Rows of cells, aligned; nothing is cut, so that identifiers can be copied."""
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415  # not needed in scripts
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(show_header=header, box=None, pad_edge=False)
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # as text: a title is no markup
        Console().print(table)
        return
    lines = [headings, *rows] if header else rows
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))] if lines else []
    for line in lines:
        padded = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(padded.rstrip() + "\n")


def printable(text: str) -> str:
    """Without control characters, with which a stranger's title could steer the terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _flattened(prefix: str, value: Row) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, dict) and inner:
            lines += _flattened(f"{name}.", inner)
        elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
            for index, item in enumerate(inner):
                lines += _flattened(f"{name}.{index}.", item)
        else:
            lines.append((printable(name), _text(key, inner)))
    return lines


def _lookup(row: Row, field: str) -> Any:  # noqa: ANN401  # JSON
    value: Any = row
    for key in field.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(key: str, value: Any) -> str:  # noqa: ANN401  # JSON
    match value:
        case None | [] | {}:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int() if key in _AMOUNTS:
            return format_amount(value)
        case int() if key.endswith("_bp"):
            return f"{value / 100:g}%"
        case list() if key == "segments":
            return str(len(value))
        case list():
            return ", ".join(_text(key, item) for item in value)
        case str():
            return printable(value)
        case _:
            return printable(str(value))
