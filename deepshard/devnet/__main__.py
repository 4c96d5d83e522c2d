"""`python -m deepshard.devnet`: watch a whole network live through one epoch on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from deepshard.errors import UsageError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_USAGE_EXIT = 2


def check_model(model: str) -> str:
    """A model that can be named; whether it can be loaded, the import finds out.

    Raises:
        UsageError: neither a known name, nor a model's directory, nor in the form of a hub's name.
    """
    if model in {"tiny", "smollm2"}:
        return model
    directory = Path(model)
    if directory.is_dir():
        if not (directory / "config.json").is_file() and not any(directory.glob("*.gguf")):
            raise UsageError(f"{model} holds no model: expected a config.json or a .gguf file in it")
        return str(directory.resolve())
    if _HUB_NAME.fullmatch(model):
        return model
    raise UsageError(f"unknown model {model!r}: give tiny, smollm2, the directory of a model, or owner/name of a hub")


def check_numbers(dishonest: int, threads: int) -> None:
    """Bounds of the numbers a person can give; with three dishonest of four there is no honest network to watch.

    Raises:
        UsageError: one is out of bounds.
    """
    if not 0 <= dishonest <= 2:
        raise UsageError(f"--dishonest {dishonest}: give 0, 1 or 2 of the four trainers")
    if threads < 0:
        raise UsageError(f"--threads {threads}: give a number of threads, or 0")


def check_recipe(recipe: str) -> None:
    """A recipe that the devnet has.

    Raises:
        UsageError: another one.
    """
    if recipe not in {"full", "lora"}:
        raise UsageError(f"unknown recipe {recipe!r}: give full or lora")


@app.command()
def main(
    *,
    model: Annotated[
        str, typer.Option(envvar="MODEL", help="tiny, smollm2, a model's directory, or owner/name on the hub.")
    ] = "smollm2",
    directory: Annotated[Path, typer.Option("--dir", help="Folder of the run: homes, logs, report.json.")] = Path(
        ".devnet"
    ),
    cache: Annotated[
        Path | None, typer.Option(help="Folder of imported models. Default: .devnet-cache beside --dir.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", envvar="KEEP", help="Leave the network running afterwards, until Ctrl-C.")
    ] = False,
    dishonest: Annotated[
        int, typer.Option(help="How many of the four trainers train on an unapproved text: 0 to 2.")
    ] = 1,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:VALIDATOR@PHASE[:SECONDS]",
            help="Hurt a validator when a phase begins, and watch it come back. KIND: kill, stop or partition; PHASE:"
            " voting, joining, training or scoring. May be given several times.",
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="What the trainers train: `full`, all weights, or `lora`, factors of low rank.")
    ] = "full",
    threads: Annotated[int, typer.Option(help="Threads of each compute worker; 0: as the model's plan says.")] = 0,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines, also on a terminal.")] = False,
) -> None:
    """Start ten nodes on this machine, live through one epoch, and check that it really happened.

    Exit code 0: every check passed. 1: a step failed, and the output says which. 2: it could not be started as asked.
    """
    import trio  # noqa: PLC0415  # --help answers before the network's parts are loaded

    from deepshard.devnet.faults import parse_faults  # noqa: PLC0415
    from deepshard.devnet.namespaces import open_network  # noqa: PLC0415
    from deepshard.devnet.narration import open_narrator  # noqa: PLC0415
    from deepshard.devnet.running import own_directory, run_devnet  # noqa: PLC0415
    from deepshard.devnet.stage import Settings  # noqa: PLC0415

    try:
        check_numbers(dishonest, threads)
        check_recipe(recipe)
        folder = directory.absolute()
        settings = Settings(
            model=check_model(model),
            directory=folder,
            cache=(cache or folder.parent / ".devnet-cache").absolute(),
            keep=keep,
            dishonest=dishonest,
            faults=parse_faults(fault or []),
            threads=threads,
            recipe=recipe,
        )
        islands = [each.node for each in settings.faults if each.kind == "partition"]
        network = open_network(sorted(set(islands))) if islands else None
        with own_directory(settings.directory):
            narrator = open_narrator(plain=plain)
            try:
                code = trio.run(run_devnet, settings, narrator, network)
            finally:
                narrator.close()
    except UsageError as error:
        typer.echo(f"devnet: {error}", err=True)
        code = _USAGE_EXIT
    raise typer.Exit(code)


if __name__ == "__main__":
    app(prog_name="python -m deepshard.devnet")
