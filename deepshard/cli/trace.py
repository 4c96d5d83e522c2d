"""`deepshard trace`: traces of the consensus core, replayed and exported (`protocol-spec/consensus-trace.md`)."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from deepshard.cli.connection import home_folder
from deepshard.cli.options import Home
from deepshard.errors import UsageError

if TYPE_CHECKING:
    from deepshard.consensus.replay import Difference, Trace

app = typer.Typer(name="trace", help="What the consensus core went through, as JSON.", no_args_is_help=True)

SHOWN_MAX: Final = 20
"""Differences shown; after one, many others may follow from it."""
DIFFERS_EXIT: Final = 1
TraceFile = Annotated[Path, typer.Argument(metavar="FILE", help="A trace; its form is in consensus-trace.md.")]


@app.command()
def replay(file: TraceFile) -> None:
    """Feed a trace to the consensus core and compare: exit code 1 if it does something else than the trace says."""
    from deepshard.cli.output import show_rows  # noqa: PLC0415
    from deepshard.consensus.replay import replay as differences_of  # noqa: PLC0415

    trace = _load(file)
    found = list(islice(differences_of(trace), SHOWN_MAX + 1))
    if not found:
        compared = sum(step.effects is not None or step.state is not None for step in trace.steps)
        sys.stdout.write(f"{len(trace.steps)} steps, {compared} of them compared: no difference\n")
        return
    show_rows(("STEP", "WHERE", "TRACE", "CORE"), [_row(difference) for difference in found[:SHOWN_MAX]])
    if len(found) > SHOWN_MAX:
        sys.stdout.write("and more\n")
    raise typer.Exit(DIFFERS_EXIT)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the trace.")],
    *,
    home: Home = None,
    genesis: Annotated[
        Path, typer.Option(metavar="FILE", envvar="DEEPSHARD_GENESIS", help="Genesis file of the node's network.")
    ],
    height: Annotated[
        int | None,
        typer.Option(min=1, help="The height being decided, or the last decided one; if not given, the first."),
    ] = None,
) -> None:
    """Write what a stopped node took in at a height, out of its log, as a trace."""
    from deepshard.cli.trace_export import export_height  # noqa: PLC0415
    from deepshard.consensus.replay import encode_trace  # noqa: PLC0415

    exported = export_height(home_folder(home), genesis, height)
    try:
        file.write_bytes(encode_trace(exported.trace))
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror or error}") from None
    last = exported.trace.steps[-1].state
    assert last is not None
    decided = "not decided" if last.decision is None else f"decided {last.decision.hex()}"
    sys.stdout.write(f"height {last.safety.height}: {len(exported.trace.steps)} steps, {decided}\n")
    if exported.fault is not None:
        sys.stderr.write(f"deepshard: warning: the trace is incomplete: {exported.fault}\n")


def _row(difference: Difference) -> tuple[str, ...]:
    where = difference.path.partition("].")[2] or difference.path
    return str(difference.step), where, _cell(difference.expected), _cell(difference.got)


def _cell(value: Any) -> str:  # noqa: ANN401  # JSON
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def _load(file: Path) -> Trace:
    from deepshard.consensus.replay import TRACE_BYTES_MAX, MalformedTrace, decode_trace  # noqa: PLC0415

    try:
        with file.open("rb") as opened:
            return decode_trace(opened.read(TRACE_BYTES_MAX + 1))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from None
    except MalformedTrace as error:
        raise UsageError(f"{file} is no trace: {error}") from None
