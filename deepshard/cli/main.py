"""The `deepshard` command. Each command is one request to a node; imports are late, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from deepshard.cli import evidence, keys, light, shards, trace, weights
from deepshard.cli.connection import Node
from deepshard.cli.exits import CommandFailed
from deepshard.cli.options import AsJson, Home, NodeUrl
from deepshard.cli.output import printable, show_fields, show_json, show_table
from deepshard.errors import DeepshardError, UsageError
from deepshard.primitives import parse_address, parse_amount

app = typer.Typer(
    name="deepshard",
    help="A peer-to-peer network that owns a language model together.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
licence_app = typer.Typer(name="licence", help="Buy the right to fetch and serve the weights.", no_args_is_help=True)
app.add_typer(keys.app)
app.add_typer(light.app)
app.add_typer(evidence.app)
app.add_typer(trace.app)
app.add_typer(shards.app)
app.add_typer(weights.app)
app.add_typer(licence_app)

ProposalId = Annotated[str, typer.Argument(metavar="PROPOSAL", help="Identifier: 64 hexadecimal digits.")]
_TRAINERS: Final = {"address": "TRAINER", "stake": "STAKE", "outcome": "OUTCOME", "reason": "REASON", "paid": "PAID"}


@app.command()
def status(*, home: Home = None, node: NodeUrl = None, as_json: AsJson = False) -> None:
    """Show the node: chain, height, model, peers and storage."""
    answer = Node.find(home, node).get("/v1/status")
    if as_json:
        show_json(answer)
        return
    peers = answer.pop("peers", [])
    show_fields(answer)
    columns = {"address": "PEER", "remote": "REMOTE", "outbound": "OUTBOUND", "bytes_in": "IN", "bytes_out": "OUT"}
    show_table(columns, peers, empty="no peers")


@app.command()
def propose(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Text file in UTF-8.")],
    stake: Annotated[str, typer.Option(help="Tokens behind the proposal.", metavar="AMOUNT")],
    title: Annotated[str, typer.Option(help="Title; the file's name if not given.")] = "",
    language: Annotated[str, typer.Option(help="Language of the text, such as en.")] = "en",
    licence: Annotated[str, typer.Option(help="Licence of the text, such as CC0-1.0.")] = "",
    *,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Propose a text for training, with stake behind it."""
    from deepshard.cli.parsing import read_text  # noqa: PLC0415

    body = {
        "text": read_text(file),
        "stake": parse_amount(stake),
        "title": title or file.stem[:64],
        "language": language,
        "licence": licence,
    }
    _show(Node.find(home, node).post("/v1/propose", body), as_json=as_json)


@app.command()
def vote(
    proposal: ProposalId,
    *,
    accept: Annotated[bool | None, typer.Option("--accept/--reject", help="Your verdict.", show_default=False)] = None,
    harmful: Annotated[bool, typer.Option("--harmful", help="It would do harm.")] = False,
    scores: Annotated[str | None, typer.Option(help="Five scores, as 80% or 0.8; segments apart by ';'.")] = None,
    predict: Annotated[str | None, typer.Option(help="Share of voters you expect to accept, as 60%.")] = None,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Vote on a proposal; scores are novelty,reproducibility,alignment,truthfulness,objectivity."""
    from deepshard.cli.parsing import parse_scores, parse_share  # noqa: PLC0415

    if accept is None:
        raise UsageError("a vote is one of --accept and --reject")
    body = {
        "proposal": proposal.strip().lower(),
        "accept": accept,
        "harmful": harmful,
        "scores": None if scores is None else parse_scores(scores),
        "predicted_accept_bp": None if predict is None else parse_share(predict),
    }
    _show(Node.find(home, node).post("/v1/vote", body), as_json=as_json)


@app.command()
def balance(
    address: Annotated[str | None, typer.Argument(help="An account; the node's own if not given.")] = None,
    *,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show an account, in tokens."""
    if address is not None:
        parse_address(address)
    found = Node.find(home, node)
    account = address or found.get("/v1/status")["address"]
    _show(found.get(f"/v1/accounts/{account}"), as_json=as_json)


@app.command()
def transfer(
    to: Annotated[str, typer.Argument(help="Address of the receiver.")],
    amount: Annotated[str, typer.Argument(help="Tokens.")],
    *,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Pay tokens from the node's account."""
    parse_address(to)
    body = {"to": to.strip(), "amount": parse_amount(amount)}
    _show(Node.find(home, node).post("/v1/transfer", body), as_json=as_json)


@app.command()
def proposals(*, home: Home = None, node: NodeUrl = None, as_json: AsJson = False) -> None:
    """List data proposals, newest first."""
    answer = Node.find(home, node).get("/v1/proposals")
    columns = {"id": "PROPOSAL", "status": "STATUS", "stake": "STAKE", "segments": "SEGMENTS"}
    columns |= {"tally.accept_bp": "ACCEPT", "tally.threshold_bp": "THRESHOLD", "title": "TITLE"}
    if as_json:
        show_json(answer)
    else:
        show_table(columns, answer, empty="no proposals yet")


@app.command()
def rounds(*, home: Home = None, node: NodeUrl = None, as_json: AsJson = False) -> None:
    """List training rounds, newest first, and what became of their trainers."""
    answer = Node.find(home, node).get("/v1/rounds")
    if as_json:
        show_json(answer)
        return
    rows = [
        {"number": current["number"], "status": current["status"], "why": current["reason"], **trainer}
        for current in answer
        for trainer in current["trainers"] or [{}]
    ]
    show_table({"number": "ROUND", "status": "STATUS", **_TRAINERS}, rows, empty="no training rounds yet")


@app.command()
def explain(
    subject: Annotated[str, typer.Argument(metavar="ID", help="A proposal, `round-N`, `audit-N`, or an address.")],
    *,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show why something was decided as it was, with the numbers the rule used."""
    from urllib.parse import quote  # noqa: PLC0415

    _show(Node.find(home, node).get(f"/v1/explain/{quote(subject.strip(), safe='')}"), as_json=as_json)


@licence_app.command()
def buy(
    price_max: Annotated[str | None, typer.Option("--max", metavar="PRICE", help="Most tokens to pay.")] = None,
    *,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Buy a licence for the current weights; the node then downloads them."""
    body = {"price_max": None if price_max is None else parse_amount(price_max)}
    _show(Node.find(home, node).post("/v1/licence", body), as_json=as_json)


@licence_app.command(name="list")
def list_licences(*, home: Home = None, node: NodeUrl = None, as_json: AsJson = False) -> None:
    """List this node's licences."""
    answer = Node.find(home, node).get("/v1/licences")
    columns = {"first_version": "FROM", "last_version": "TO", "price": "PRICE", "height": "HEIGHT"}
    if as_json:
        show_json(answer)
    else:
        show_table(columns, answer, empty="no licence yet: buy one with `deepshard licence buy`")


@app.command()
def chat(
    prompt: Annotated[str, typer.Argument(help="What to ask the model.")],
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Longest answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest word.")] = 0.7,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    *,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Ask the model a node serves."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    body |= {"temperature": temperature} | ({} if seed is None else {"seed": seed})
    found = Node.find(home, node)
    if as_json:
        show_json(found.post("/v1/chat/completions", body))
        return
    for event in found.stream("/v1/chat/completions", body | {"stream": True}):
        piece = event["choices"][0]["delta"].get("content", "")
        sys.stdout.write("".join(part if part in "\n\t" else printable(part) for part in piece))
        sys.stdout.flush()
    sys.stdout.write("\n")


def _show(answer: dict[str, Any], *, as_json: bool) -> None:
    (show_json if as_json else show_fields)(answer)


def run() -> None:
    """Entry point: a person's mistakes are one line and exit code 2, ours or the node's exit code 1."""
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        return _complain(str(error), 2)
    except CommandFailed as error:
        return _complain(str(error), error.code)
    except DeepshardError as error:
        return _complain(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # The reader of our output left, as `head` does; Python must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001  # the last handler of the process: people get no traceback
        format_message = getattr(error, "format_message", None)
        if format_message is not None:  # the command line itself was wrong
            message = format_message()
            return _complain(f"{message} (see `deepshard --help`)", 2) if message else 2  # no command: help was shown
        if os.environ.get("DEEPSHARD_DEBUG"):
            traceback.print_exception(error)
        return _complain(f"internal error: {type(error).__name__}: {error} (DEEPSHARD_DEBUG=1 shows more)", 1)
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    line = " ".join(printable(part) for part in message.splitlines())
    sys.stderr.write(f"deepshard: {line}\n")
    return code


if __name__ == "__main__":
    run()
