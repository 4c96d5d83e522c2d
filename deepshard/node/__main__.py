"""`python -m deepshard.node`: run a node until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    home: Annotated[
        str | None, typer.Option(envvar="DEEPSHARD_HOME", help="Folder of the node: key.json, chain, chunks, api.json.")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(envvar="DEEPSHARD_LISTEN", help="HOST:PORT for peers; port 0 takes a free one.")
    ] = None,
    advertise: Annotated[
        str | None, typer.Option(envvar="DEEPSHARD_ADVERTISE", help="HOST:PORT that peers can dial, if not --listen.")
    ] = None,
    peers: Annotated[
        str | None, typer.Option(envvar="DEEPSHARD_PEERS", help="HOST:PORT,... of some nodes; the others are learned.")
    ] = None,
    roles: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPSHARD_ROLES",
            help="validator,trainer,informant,inference: any of them. Inference alone runs as a light client.",
        ),
    ] = None,
    genesis: Annotated[
        str | None, typer.Option(envvar="DEEPSHARD_GENESIS", help="Genesis file of the network to join.")
    ] = None,
    trust: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPSHARD_TRUST",
            help="HEIGHT:ID of a recent block that you know to be right: trust begins there, where genesis is too old.",
        ),
    ] = None,
    snapshot_gap: Annotated[
        int | None,
        typer.Option(
            envvar="DEEPSHARD_SNAPSHOT_GAP",
            metavar="BLOCKS",
            help="Join by a snapshot when further behind than this; 0: always execute every block.",
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(envvar="DEEPSHARD_HTTP", help="HOST:PORT of the HTTP API; its token is in HOME/api.json."),
    ] = None,
    log_format: Annotated[str | None, typer.Option(envvar="DEEPSHARD_LOG_FORMAT", help="json or console.")] = None,
    log_level: Annotated[
        str | None, typer.Option(envvar="DEEPSHARD_LOG_LEVEL", help="debug, info, warning, error.")
    ] = None,
    passphrase_file: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPSHARD_PASSPHRASE_FILE",
            help="File with the key's passphrase; else DEEPSHARD_PASSPHRASE, else a prompt.",
        ),
    ] = None,
    upload_rate: Annotated[
        float | None,
        typer.Option(
            envvar="DEEPSHARD_UPLOAD_RATE",
            metavar="MIB_PER_S",
            help="Cap on weights and texts served, in MiB a second; 0: none. Consensus and gossip are never capped.",
        ),
    ] = None,
    download_rate: Annotated[
        float | None,
        typer.Option(
            envvar="DEEPSHARD_DOWNLOAD_RATE",
            metavar="MIB_PER_S",
            help="Cap on weights and texts fetched, in MiB a second; 0: none.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(envvar="DEEPSHARD_THREADS", help="Threads of the compute worker; 0 uses every core.")
    ] = None,
    lease: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPSHARD_LEASE",
            help="FILE,...: lock files shared by nodes on one machine; a heavy job waits until it gets one.",
        ),
    ] = None,
    scoring: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPSHARD_SCORING",
            metavar="PATH",
            help="Validator: how models are scored: resident (in memory), streamed (layer by layer, out of their"
            " chunks), or auto: in memory where they fit.",
        ),
    ] = None,
    scoring_memory: Annotated[
        float | None,
        typer.Option(
            envvar="DEEPSHARD_SCORING_MEMORY",
            metavar="MIB",
            help="Validator: memory to score in, for weights and states; 0: half of what the machine has left.",
        ),
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option(envvar="DEEPSHARD_MICRO_BATCH", help="Trainer: segments per forward pass.")
    ] = None,
    trainer_stake: Annotated[
        str | None, typer.Option(envvar="DEEPSHARD_TRAINER_STAKE", help="Trainer: tokens to stake in a round.")
    ] = None,
    trainer_extra_text: Annotated[
        str | None,
        typer.Option(help="Trainer, for experiments only: also train on this unapproved text. The network slashes it."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(envvar="DEEPSHARD_CONFIG", help="TOML file with the same names (- becomes _).")
    ] = None,
) -> None:
    r"""Run a Deepshard node until SIGTERM or Ctrl-C.

    First: `deepshard keys new --home DIR` makes a key. Then, for a validator of a network whose genesis you have:

        python -m deepshard.node --home DIR --genesis genesis.json --roles validator \
            --listen 0.0.0.0:7420 --peers node1.example:7420,node2.example:7420

    The node keeps its chain, its shards and its promises in DIR and goes on where it left off when started again.
    Ask it things with `deepshard status --home DIR`.
    """
    given = {
        "home": home,
        "listen": listen,
        "advertise": advertise,
        "peers": peers,
        "roles": roles,
        "genesis": genesis,
        "trust": trust,
        "snapshot_gap_blocks": snapshot_gap,
        "http": http,
        "log_format": log_format,
        "log_level": log_level,
        "passphrase_file": passphrase_file,
        "upload_rate": upload_rate,
        "download_rate": download_rate,
        "threads": threads,
        "leases": lease,
        "scoring": scoring,
        "scoring_memory": scoring_memory,
        "micro_batch": micro_batch,
        "trainer_stake": trainer_stake,
        "trainer_extra_text": trainer_extra_text,
    }
    from deepshard.node.running import run_node  # noqa: PLC0415  # --help must answer before trio and SQLite are loaded

    raise typer.Exit(run_node(config, given))


if __name__ == "__main__":
    app(prog_name="python -m deepshard.node")
