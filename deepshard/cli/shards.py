"""`deepshard shards`: who holds what and how safe it is, and what this node offers to hold."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Annotated, Any, Final

import typer

from deepshard.cli.connection import Node
from deepshard.cli.options import AsJson, Home, NodeUrl
from deepshard.cli.output import printable, show_fields, show_json, show_rows, show_table
from deepshard.errors import UsageError
from deepshard.primitives import format_amount

app = typer.Typer(name="shards", help="Who holds the weights, and what this node offers to hold.", no_args_is_help=True)
_DANGER: Final = {"lost": 0, "endangered": 1, "thin": 2, "safe": 3}
_HOLDERS: Final = {
    "address": "HOLDER",
    "here": "PRESENT",
    "shards": "SHARDS",
    "size": "HOLDS",
    "offers": "OFFERS",
    "operator": "OPERATOR",
    "network": "NETWORK",
    "seen_network": "SEEN IN",
}


@app.command(name="map")
def show_map(
    most: Annotated[int, typer.Option("--most", min=1, help="Shards to list, the least safe first.")] = 50,
    *,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Draw who holds which shard of the newest version, and how safe each shard is."""
    answer = Node.find(home, node).get("/v1/shards")
    if as_json:
        show_json(answer)
        return
    shards, holders = answer["shards"], answer["holders"]
    counts = Counter(shard["safety"] for shard in shards)
    told = ", ".join(f"{counts[name]} {name}" for name in _DANGER if counts[name])
    total = format_size(sum(shard["decoded_bytes"] for shard in shards))
    sys.stdout.write(
        f"version {answer['version']}: {len(shards)} shards of {total}, {answer['replication']} copies each; {told}\n\n"
    )
    numbers = {holder["address"]: letters(place) for place, holder in enumerate(holders)}
    away = {holder["address"] for holder in holders if not holder["present"]}
    worst = sorted(shards, key=lambda shard: (_DANGER[shard["safety"]], shard["failures_to_lose"], shard["number"]))
    rows = [
        (
            str(shard["number"]),
            printable(shard["name"]),
            format_size(shard["decoded_bytes"]),
            " ".join(f"({numbers[each]})" if each in away else numbers[each] for each in shard["holders"]) or "-",
            str(shard["domains"]),
            _safety(shard),
        )
        for shard in worst[:most]
    ]
    show_rows(("SHARD", "TENSOR", "SIZE", "HOLDERS", "DOMAINS", "SAFETY"), rows)
    if len(shards) > most:
        sys.stdout.write(f"and {len(shards) - most} more, none of them less safe (--most lists them)\n")
    sys.stdout.write("\n")
    listed = [
        {
            **holder,
            "address": f"{numbers[holder['address']]} {holder['address']}",
            "here": "yes" if holder["present"] else "away",
            "size": format_size(holder["chunk_bytes"]),
            "offers": None if holder["capacity"] is None else format_size(holder["capacity"]),
            **{name: holder[name] or None for name in ("operator", "network")},
        }
        for holder in holders
    ]
    show_table(_HOLDERS, listed, empty="nobody holds shards")
    for group in answer["unsaid"]:
        members = ", ".join(numbers[each] for each in group["holders"])
        sys.stdout.write(f"{members} are seen in {group['network']}, and don't say that they share it\n")


@app.command()
def audits(
    epoch: Annotated[
        int | None,
        typer.Argument(min=1, max=2**31 - 1, help="Of which epoch; else all that are kept."),
    ] = None,
    *,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show which holders were asked for what, who answered, and what who didn't has lost."""
    found = Node.find(home, node).get("/v1/audits")
    answer = [audit for audit in found if epoch in {None, audit["epoch"]}]
    if epoch is not None and not answer:
        kept = f"epochs {found[-1]['epoch']} to {found[0]['epoch']}" if found else "none"
        raise UsageError(f"there is no audit of epoch {epoch}; this node has {kept}")
    if as_json:
        show_json(answer)
        return
    if not answer:
        sys.stdout.write("no audits yet\n")
    for place, audit in enumerate(answer):
        if place:
            sys.stdout.write("\n")
        ends = "closed at" if audit["status"] == "closed" else "open until"
        sys.stdout.write(f"epoch {audit['epoch']}: version {audit['version']}, {ends} height {audit['deadline']}\n")
        lost = {outcome["holder"]: outcome["lost"] for outcome in audit["outcomes"]}
        rows = [
            (str(shard["number"]), holder, _answered(audit, shard, holder), _lost(lost.get(holder)))
            for shard in audit["shards"]
            for holder in shard["due"] or ("-",)
        ]
        show_rows(("SHARD", "HOLDER", "ANSWERED", "LOST IN ALL"), rows)
        if not audit["agrees"]:
            sys.stdout.write("the record doesn't agree with its own draw\n")


def _answered(audit: dict[str, Any], shard: dict[str, Any], holder: str) -> str:
    if not shard["shown"]:
        return "nobody has shown it"
    if holder == "-":
        return "nobody is due"
    if holder in shard["answered"]:
        return "yes"
    return "no" if audit["status"] == "closed" else "not yet"


def _lost(units: int | None) -> str:
    return "-" if not units else format_amount(units)


@app.command()
def offer(
    capacity: Annotated[
        str,
        typer.Option(
            help="Most to hold, as 500GB or 2TiB. Without an offer: 1 GB for each token bonded.", metavar="SIZE"
        ),
    ],
    operator: Annotated[str, typer.Option(help="Who runs this node; the same text for all their nodes.")] = "",
    network: Annotated[str, typer.Option(help="Where it is connected, as a data centre or 192.0.2.0/24.")] = "",
    *,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say on chain how much this validator holds at most, and what it may fail together with.

    Shards, and the holders' part of licence fees, go by what each holds at most, up to 1 GB for each token bonded.
    """
    from deepshard.cli.parsing import parse_size  # noqa: PLC0415

    body = {"capacity": parse_size(capacity), "operator": operator, "network": network}
    answer = Node.find(home, node).post("/v1/storage", body)
    (show_json if as_json else show_fields)(answer)


def letters(place: int) -> str:
    """A to Z, then AA to ZZ, and so on."""
    text = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        text = chr(ord("A") + rest) + text
    return text


def format_size(size: int) -> str:
    """Bytes in units of 1000, with three digits."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB", "PB", "EB"]
    while value >= 999.5 and len(units) > 1:  # would be shown as 1000
        value /= 1000
        units.pop(0)
    return f"{value:.3g} {units[0]}"


def _safety(shard: dict[str, Any]) -> str:
    failures = shard["failures_to_lose"]
    if not failures:
        return f"{shard['safety']}"
    return f"{shard['safety']}: {failures} failure{'s' if failures > 1 else ''} to lose it"
