"""`deepshard evidence`: check it with nothing but a file, list what a node has seen, report it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from deepshard.cli.connection import Node
from deepshard.cli.options import AsJson, Home, NodeUrl
from deepshard.cli.output import show_fields, show_json, show_table
from deepshard.errors import RemoteError, UsageError
from deepshard.limits import EVIDENCE_BYTES_MAX
from deepshard.primitives import format_address

if TYPE_CHECKING:
    from deepshard.consensus.forensics import Accusation

app = typer.Typer(name="evidence", help="Evidence of validators that contradict themselves.", no_args_is_help=True)

_COLUMNS: Final = {
    "state": "STATE",
    "kind": "KIND",
    "validator": "VALIDATOR",
    "offence_height": "HEIGHT",
    "height": "PUNISHED",
    "slashed": "SLASHED",
    "jailed_until": "JAILED UNTIL",
}


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File of evidence (protocol-spec, chapter 9.5).")],
    *,
    chain: Annotated[str | None, typer.Option(metavar="ID", help="Chain id of the network.")] = None,
    genesis: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Genesis file of the network, instead of --chain.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a file of evidence without a node: exit code 0 if it is proven, 1 if not, 2 if there is nothing to check.

    What it can't show is whether the accused was a validator at that height: the chain knows.
    """
    chain_id = _chain_id(chain, genesis)
    accusation = _read(file)
    (show_json if as_json else show_fields)(_proven(accusation, chain_id))


@app.command(name="list")
def list_evidence(*, home: Home = None, node: NodeUrl = None, as_json: AsJson = False) -> None:
    """List evidence that the node holds, and validators that were convicted."""
    answer = Node.find(home, node).get("/v1/evidence")
    if as_json:
        show_json(answer)
        return
    rows = [{"state": "held", **one, "offence_height": one["height"], "height": None} for one in answer["held"]]
    rows += [{"state": "jailed" if one["jailed_until"] else "punished", **one} for one in answer["convictions"]]
    show_table(_COLUMNS, rows, empty="no evidence: no validator was seen to contradict itself")


@app.command()
def report(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File of evidence.")],
    *,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Accuse validators on chain; the node needs a bond. Who is convicted loses stake, the reporter gains nothing."""
    from deepshard.encoding import encode  # noqa: PLC0415

    body = {"evidence": encode(_read(file)).hex()}
    (show_json if as_json else show_fields)(Node.find(home, node).post("/v1/evidence", body))


@app.command()
def unjail(*, home: Home = None, node: NodeUrl = None, as_json: AsJson = False) -> None:
    """Let the node's own validator out of jail, once its time is over."""
    (show_json if as_json else show_fields)(Node.find(home, node).post("/v1/unjail", {}))


def _proven(accusation: Accusation, chain_id: str) -> dict[str, Any]:
    """What is proven, as fields; a `RemoteError` says why nothing is."""
    from deepshard.consensus.forensics import (  # noqa: PLC0415  # imports are late, so that --help is quick
        ConflictingCommits,
        culprits,
        verify_conflicting_commits,
    )
    from deepshard.evidence import verify_evidence  # noqa: PLC0415

    if not isinstance(accusation, ConflictingCommits):
        offence = verify_evidence(accusation, chain_id)
        return {
            "kind": offence.kind,
            "validator": format_address(offence.validator),
            "height": offence.height,
            "round": offence.round,
            "chain_id": chain_id,
        }
    convicted = culprits(verify_conflicting_commits(accusation, chain_id))
    decided = (accusation.first, accusation.second)
    return {
        "kind": "conflicting-commits",
        "height": accusation.first.header.height,
        "chain_id": chain_id,
        "decisions": [
            {
                "block_id": one.header.block_id().hex(),
                "round": one.certificate.round,
                "signers": [format_address(entry.validator) for entry in one.certificate.signatures],
                "validators_hash": one.header.validators_hash.hex(),
            }
            for one in decided
        ],
        "convicted": [format_address(address) for address in sorted(convicted)],
    }


def _read(path: Path) -> Accusation:
    from deepshard.consensus.forensics import decode_accusation  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            data = file.read(EVIDENCE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        return decode_accusation(data)
    except RemoteError as error:
        raise UsageError(f"{path} is no file of evidence: {error}") from None


def _chain_id(chain: str | None, genesis: Path | None) -> str:
    if (chain is None) == (genesis is None):
        raise UsageError("say which network it is about: one of --chain ID and --genesis FILE")
    if genesis is None:
        assert chain is not None
        return chain
    from deepshard.ledger.genesis import load_genesis  # noqa: PLC0415

    try:
        text = genesis.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the genesis file {genesis}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the genesis file {genesis} is not text") from None
    return load_genesis(text).chain_id
