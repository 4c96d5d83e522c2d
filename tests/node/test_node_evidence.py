"""An operator's classic mistake, with real processes: one validator key on two machines."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from msgspec.structs import replace
from test_node_process import KEY, OTHER, PATIENCE_S, TOKEN, Home, genesis

from deepshard.devnet.roster import free_ports
from deepshard.identity import SecretKey
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import GenesisValidator
from deepshard.primitives import content_digest, format_address, tagged_hash

TWICE = SecretKey(content_digest(b"on two machines"))
STAKES = {KEY: 2000 * TOKEN, OTHER: 2000 * TOKEN, TWICE: 1000 * TOKEN}
"""Whoever has two thirds goes on, whatever the third one does."""


def deepshard(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "deepshard.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    return done.stdout


def test_a_key_on_two_machines_is_convicted_on_chain(tmp_path: Path) -> None:
    network = replace(
        genesis("twice"),
        validators=tuple(
            GenesisValidator(key.public, stake, OnionChain(tagged_hash("onion seed", key.seed)).tip)
            for key, stake in sorted(STAKES.items(), key=lambda entry: entry[0].address)
        ),
    )
    keys = {"one": KEY, "two": OTHER, "twice": TWICE, "twice again": TWICE}
    homes = {name: Home(tmp_path / name, key, network) for name, key in keys.items()}
    listens = dict(zip(keys, (f"127.0.0.1:{port}" for port in free_ports(4)), strict=True))
    meets = {"one": "two", "two": "one", "twice": "one", "twice again": "two"}
    with ExitStack() as running:
        nodes = {
            name: running.enter_context(
                home.running(listen=listens[name], peers=listens[meets[name]], roles="validator", log_level="warning")
            )
            for name, home in homes.items()
        }
        found = nodes["one"].wait_for("validator.convicted", validator=TWICE.address.hex())
        assert found["kind"] in {"duplicate-vote", "duplicate-proposal", "amnesia"}
        with nodes["one"].api() as api:
            (conviction,) = api.get("/v1/evidence").json()["convictions"]
            assert (conviction["validator"], conviction["count"]) == (format_address(TWICE.address), 1)
            assert conviction["slashed"] == 50 * TOKEN
            validators = {entry["address"]: entry for entry in api.get("/v1/status").json()["validators"]}
            shown = validators[format_address(TWICE.address)]
            assert (shown["slashed"], shown["jailed_until"]) == (50 * TOKEN, conviction["jailed_until"])
            assert api.get(f"/v1/accounts/{format_address(TWICE.address)}").json()["bonded"] == 950 * TOKEN
            assert api.get("/v1/status").json()["supply"]["conserved"] is True
        home = str(homes["one"].home)
        assert format_address(TWICE.address) in deepshard("evidence", "list", "--home", home)
        explained = json.loads(deepshard("explain", format_address(TWICE.address), "--home", home, "--json"))
        assert explained["conviction"]["text"].startswith("It ")
        again = json.loads(deepshard("explain", conviction["evidence"], "--home", home, "--json"))
        assert again["validator"] == format_address(TWICE.address)
    files = [path for name in ("one", "two") for path in (homes[name].home / "evidence").glob("*.evidence")]
    assert files, "whoever saw it keeps a file of it"
    for path in files:
        genesis_file = str(homes["one"].folder / "genesis.json")
        proven = json.loads(deepshard("evidence", "verify", str(path), "--genesis", genesis_file, "--json"))
        assert (proven["validator"], proven["chain_id"]) == (format_address(TWICE.address), "twice")
