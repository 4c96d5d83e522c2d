"""How a followed chain looks: a live table on a terminal, a line for each header elsewhere, or JSON lines."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from deepshard.cli.output import printable
from deepshard.consensus.light_events import Trusted
from deepshard.consensus.types import Header
from deepshard.consensus.validators import ValidatorSet

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

ID_DIGITS: Final = 16
ROWS_MAX: Final = 20
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Signed:
    """By how much of the power of its validators a header is signed."""

    power: int
    total_power: int
    signers: int
    validators: int

    @classmethod
    def of(cls, signers: Iterable[bytes], validators: ValidatorSet) -> Signed:
        """Count signers by their addresses."""
        known = set(signers)
        power = sum(validators.power_of(address) for address in known)
        return cls(power, validators.total_power, len(known), len(validators.validators))


@dataclass(frozen=True, slots=True)
class Verified:
    """A header that has become trusted.

    `signed` is None for one that is proven by the parent id of the next. `agreed` are the peers that showed the same
    as `source`, in the same step.
    """

    header: Header
    signed: Signed | None
    source: bytes
    agreed: tuple[bytes, ...]


def verified(step: Trusted) -> list[Verified]:
    """The headers of one step, the lowest first."""
    signed = {
        block.header.height: Signed.of((entry.validator for entry in block.certificate.signatures), block.validators)
        for block in step.blocks
    }
    ordered = sorted(step.headers, key=lambda header: header.height)
    return [Verified(header, signed.get(header.height), step.source, step.agreed) for header in ordered]


class View(Protocol):
    """Where a person or a program sees it."""

    def show(self, one: Verified) -> None:
        """A header has become trusted."""
        ...

    def say(self, event: str, text: str, facts: Json) -> None:
        """Something else happened; `text` is one line for a person."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Lines:
    """Plain lines."""

    def show(self, one: Verified) -> None:
        """See `View.show`."""
        header = one.header
        peers = 1 + len(one.agreed)
        _write(
            f"height {header.height}  id {short(header.block_id())}  {when(header.time_ms)}  "
            f"signed {signed_text(one.signed)}  peers {peers}"
        )

    def say(self, event: str, text: str, facts: Json) -> None:  # noqa: ARG002  # a person gets the text
        """See `View.say`; beside the headers, not among them."""
        sys.stderr.write(f"deepshard: {printable(text)}\n")

    def close(self) -> None:
        """See `View.close`."""


class JsonLines:
    """One JSON object a line; `event` says what it is."""

    def show(self, one: Verified) -> None:
        """See `View.show`."""
        _write(json.dumps({"event": "header", **header_json(one)}))

    def say(self, event: str, text: str, facts: Json) -> None:
        """See `View.say`."""
        _write(json.dumps({"event": event, "text": text, **facts}, ensure_ascii=False))

    def close(self) -> None:
        """See `View.close`."""


class LiveTable:
    """The newest headers as a table that stays in place."""

    def __init__(self, title: str) -> None:
        from rich.live import Live  # noqa: PLC0415  # not needed in scripts

        self._title = title
        self._rows: deque[Verified] = deque(maxlen=ROWS_MAX)
        self._notes: deque[str] = deque(maxlen=4)
        self._live: Live = Live(get_renderable=self._render, refresh_per_second=4, transient=False)
        self._live.start()

    def show(self, one: Verified) -> None:
        """See `View.show`."""
        self._rows.append(one)

    def say(self, event: str, text: str, facts: Json) -> None:  # noqa: ARG002
        """See `View.say`."""
        self._notes.append(printable(text))

    def close(self) -> None:
        """See `View.close`."""
        self._live.stop()

    def _render(self) -> RenderableType:
        from rich.console import Group  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=None, pad_edge=False, title=self._title, title_justify="left")
        for heading in ("HEIGHT", "ID", "TIME", "SIGNED", "PEERS"):
            table.add_column(heading, overflow="fold")
        for one in list(self._rows):
            header = one.header
            cells = (str(header.height), short(header.block_id()), when(header.time_ms), signed_text(one.signed))
            table.add_row(*cells, str(1 + len(one.agreed)))
        return Group(table, *(Text(note) for note in self._notes))


def short(block_id: bytes) -> str:
    """The beginning of a block id."""
    return block_id.hex()[:ID_DIGITS]


def when(time_ms: int) -> str:
    """Milliseconds since 1970 as a date and time of UTC; the number itself where no calendar reaches."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"


def signed_text(signed: Signed | None) -> str:
    """Share of the power, and of the validators."""
    if signed is None:
        return "(parent of the next)"
    share = signed.power * 1000 // signed.total_power / 10
    return f"{share:g}% by {signed.signers} of {signed.validators}"


def header_json(one: Verified) -> Json:
    """A verified header; power in base units, peers by public key."""
    header, signed = one.header, one.signed
    return {
        "height": header.height,
        "block_id": header.block_id().hex(),
        "time": when(header.time_ms),
        "time_ms": header.time_ms,
        "state_root": header.state_root.hex(),
        "manifest": header.manifest.hex(),
        "proof": "parent" if signed is None else "certificate",
        "signed_power": None if signed is None else signed.power,
        "total_power": None if signed is None else signed.total_power,
        "signers": None if signed is None else signed.signers,
        "validators": None if signed is None else signed.validators,
        "primary": one.source.hex(),
        "witnesses": [peer.hex() for peer in one.agreed],
    }


def open_view(title: str, *, as_json: bool, live: bool) -> View:
    """The view that fits where the output goes."""
    if as_json:
        return JsonLines()
    return LiveTable(title) if live and sys.stdout.isatty() else Lines()


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # whoever reads a pipe wants each header when it is there
