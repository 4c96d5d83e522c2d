"""`python -m deepshard.conformance`: judge a node by the specification."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
USAGE_EXIT = 2


@app.command()
def main(
    *,
    target: Annotated[str, typer.Option(help="HOST:PORT of the node to judge.")] = "",
    listen: Annotated[
        str | None,
        typer.Option(help="HOST:PORT that the target can dial; port 0: only where the suite invites it to."),
    ] = None,
    genesis: Annotated[Path | None, typer.Option(help="Genesis file of the target's network.")] = None,
    chain_id: Annotated[str | None, typer.Option(help="Instead of --genesis; else the target is asked.")] = None,
    genesis_hash: Annotated[str | None, typer.Option(help="With --chain-id: 64 hexadecimal digits.")] = None,
    key: Annotated[str | None, typer.Option(help="Public key that the target must prove, in hexadecimal.")] = None,
    account: Annotated[
        Path | None, typer.Option(help="File with the seed, in hexadecimal, of an account that has a balance.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="SHOULD counts like MUST.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="A chapter (4), section (4.2) or clause (4.2/7); repeatable.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the cases and run none.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every case in the tree.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write JSON to this file.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds the target may take to answer or to close.")] = 5.0,
) -> None:
    """Judge the node at --target by protocol-spec/, from outside.

    Exit code 0: it conforms. 1: it breaks a MUST (with --strict, or a SHOULD). 2: it can't be judged.
    """
    from deepshard.errors import UsageError  # noqa: PLC0415  # --help must answer before trio is loaded

    try:
        code = _run(
            {
                "target": target,
                "listen": listen,
                "genesis": genesis,
                "chain_id": chain_id,
                "genesis_hash": genesis_hash,
                "key": key,
                "account": account,
                "strict": strict,
                "timeout_s": timeout,
            },
            only or [],
            listing=list_,
            verbose=verbose,
            junit=junit,
            json_=json_,
        )
    except* UsageError as raised:
        first: BaseException = raised
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        sys.stderr.write(f"deepshard.conformance: {first}\n")
        code = USAGE_EXIT
    raise typer.Exit(code)


def _run(
    given: dict[str, object], only: list[str], *, listing: bool, verbose: bool, junit: Path | None, json_: Path | None
) -> int:
    import trio  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    from deepshard.conformance import report  # noqa: PLC0415
    from deepshard.conformance.registry import load_cases, select  # noqa: PLC0415
    from deepshard.conformance.session import Options, run_cases  # noqa: PLC0415
    from deepshard.errors import UsageError  # noqa: PLC0415

    console = Console()
    cases = select(load_cases(), only)
    if listing:
        report.print_list(console, cases)
        return 0
    if not given["target"]:
        raise UsageError("no target: give --target HOST:PORT")
    options = Options(**given)  # type: ignore[arg-type]
    began = time.monotonic()
    progress = report.Progress(console, len(cases))
    results = trio.run(run_cases, options, cases, progress.show)
    seconds = time.monotonic() - began
    progress.done()
    report.print_tree(console, results, verbose=verbose)
    report.print_failures(console, results)
    report.print_summary(console, results, seconds, strict=options.strict)
    if junit is not None:
        report.write_junit(junit, results, seconds)
    if json_ is not None:
        report.write_json(json_, results, options.target, seconds, strict=options.strict)
    return report.verdict(results, strict=options.strict)


if __name__ == "__main__":
    app(prog_name="python -m deepshard.conformance")
