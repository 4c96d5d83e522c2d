"""`deepshard light`: follow a network and read its state without a node, trusting no peer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepshard.cli.connection import home_folder
from deepshard.errors import UsageError
from deepshard.primitives import parse_address, parse_block_reference

if TYPE_CHECKING:
    from deepshard.cli.light_session import LightSession

app = typer.Typer(
    name="light",
    help="A light client of its own, without a node: headers verified by their validators' signatures and compared "
    "between peers, records by Merkle proof. Exit codes: 2 asked wrongly, 3 no peer leads on, 4 what is trusted is too "
    "old, 5 two signed histories (an attack), 1 anything else.",
    no_args_is_help=True,
)

Peers = Annotated[
    str | None,
    typer.Option(
        "--peers",
        envvar="DEEPSHARD_PEERS",
        metavar="HOST:PORT,...",
        help="Some nodes of the network, better several; others are learned. The last ones if not given.",
    ),
]
GenesisFile = Annotated[
    Path | None,
    typer.Option(
        "--genesis",
        envvar="DEEPSHARD_GENESIS",
        metavar="FILE",
        help="Genesis file of the network; needed the first time only.",
    ),
]
Trust = Annotated[
    str | None,
    typer.Option(
        "--trust",
        envvar="DEEPSHARD_TRUST",
        metavar="HEIGHT:ID",
        help="A recent block that you know to be right: where trust begins, or begins anew.",
    ),
]
LightHome = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        envvar="DEEPSHARD_HOME",
        help="Folder where light.sqlite keeps what is trusted; ~/.deepshard if not given.",
    ),
]
NeedWitness = Annotated[
    bool, typer.Option("--need-witness", help="Trust no header that only one peer shows; wait for a second.")
]
Patience = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=1.0,
        max=3600.0,
        help="Give up after so long without progress.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; `follow` prints one object a line.")]
AddressArgument = Annotated[str, typer.Argument(metavar="ADDRESS", help="An account: ds1...")]
PATIENCE_S = 20.0


@app.command()
def follow(
    *,
    peers: Peers = None,
    genesis: GenesisFile = None,
    trust: Trust = None,
    home: LightHome = None,
    once: Annotated[bool, typer.Option("--once", help="End when level with the peers.")] = False,
    need_witness: NeedWitness = False,
    timeout: Patience = PATIENCE_S,
    as_json: AsJson = False,
) -> None:
    """Follow the chain: print each header when it is verified. Goes on from where it was; ends with Ctrl-C."""
    from deepshard.cli.light_following import follow_chain  # noqa: PLC0415  # --help answers before trio is loaded

    follow_chain(
        home_folder(home),
        genesis=genesis,
        peers=_parse_peers(peers),
        trust=_parse_trust(trust),
        once=once,
        needs_witness=need_witness,
        patience_s=timeout,
        as_json=as_json,
    )


@app.command()
def balance(
    address: AddressArgument,
    *,
    peers: Peers = None,
    genesis: GenesisFile = None,
    trust: Trust = None,
    home: LightHome = None,
    need_witness: NeedWitness = False,
    timeout: Patience = PATIENCE_S,
    as_json: AsJson = False,
) -> None:
    """Show an account and its bond, proven against a verified header."""
    from deepshard.cli.light_records import read_balance  # noqa: PLC0415

    account = parse_address(address)
    _query(partial(read_balance, address=account), peers, genesis, trust, home, need_witness, timeout, as_json=as_json)


@app.command()
def licence(
    address: AddressArgument,
    *,
    peers: Peers = None,
    genesis: GenesisFile = None,
    trust: Trust = None,
    home: LightHome = None,
    need_witness: NeedWitness = False,
    timeout: Patience = PATIENCE_S,
    as_json: AsJson = False,
) -> None:
    """Show which weights an account may fetch, or that it has no licence; either is proven."""
    from deepshard.cli.light_records import read_licence  # noqa: PLC0415

    account = parse_address(address)
    _query(partial(read_licence, address=account), peers, genesis, trust, home, need_witness, timeout, as_json=as_json)


@app.command()
def manifest(
    *,
    peers: Peers = None,
    genesis: GenesisFile = None,
    trust: Trust = None,
    home: LightHome = None,
    need_witness: NeedWitness = False,
    timeout: Patience = PATIENCE_S,
    as_json: AsJson = False,
) -> None:
    """Show the current weights: version, manifest and root, proven against a verified header."""
    from deepshard.cli.light_records import read_manifest  # noqa: PLC0415

    _query(read_manifest, peers, genesis, trust, home, need_witness, timeout, as_json=as_json)


def _query(
    read: Callable[[LightSession], Awaitable[dict[str, Any]]],
    peers: str | None,
    genesis: Path | None,
    trust: str | None,
    home: Path | None,
    needs_witness: bool,  # noqa: FBT001  # in the order of the options
    patience_s: float,
    *,
    as_json: bool,
) -> None:
    from deepshard.cli.light_following import ask_once  # noqa: PLC0415
    from deepshard.cli.output import show_fields, show_json  # noqa: PLC0415

    answer = ask_once(
        read,
        home_folder(home),
        genesis=genesis,
        peers=_parse_peers(peers),
        trust=_parse_trust(trust),
        needs_witness=needs_witness,
        patience_s=patience_s,
    )
    (show_json if as_json else show_fields)(answer)


def _parse_peers(text: str | None) -> tuple[str, ...]:
    from deepshard.net.endpoints import parse_dial_target  # noqa: PLC0415

    if text is None:
        return ()
    peers = tuple(part.strip() for part in text.split(",") if part.strip())
    if not peers:
        raise UsageError("--peers names nobody: give HOST:PORT,...")
    for peer in peers:
        parse_dial_target(peer)
    return peers


def _parse_trust(text: str | None) -> tuple[int, bytes] | None:
    return None if text is None else parse_block_reference(text)
