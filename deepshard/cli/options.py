"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path | None,
    typer.Option(
        "--home", metavar="DIR", envvar="DEEPSHARD_HOME", help="The node's folder; ~/.deepshard if not given."
    ),
]
NodeUrl = Annotated[
    str | None,
    typer.Option("--node", metavar="URL", help="The node's API, instead of --home; its token is in DEEPSHARD_TOKEN."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the node's answer as JSON.")]
