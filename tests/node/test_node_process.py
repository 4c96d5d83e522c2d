"""The node as a person runs it: a real process, a real home, one clear line for every mistake."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
from nacl.pwhash import argon2id

from deepshard.chunk_tree import NO_CHUNKS
from deepshard.devnet.plans import params_for, plan_for
from deepshard.identity import SecretKey, write_key_file
from deepshard.ledger.genesis import dump_genesis
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.primitives import UNITS_PER_TOKEN, content_digest, format_address, tagged_hash

TOKEN = UNITS_PER_TOKEN
KEY = SecretKey(content_digest(b"the only validator"))
OTHER = SecretKey(content_digest(b"somebody else"))
PATIENCE_S = 120.0


def genesis(chain_id: str = "solo") -> Genesis:
    """A network whose one validator decides alone."""
    onion = OnionChain(tagged_hash("onion seed", KEY.seed))
    return Genesis(
        chain_id=chain_id,
        time_ms=1_700_000_000_000,
        params=params_for(plan_for("tiny")),
        validators=(GenesisValidator(KEY.public, 1000 * TOKEN, onion.tip),),
        accounts=(GenesisAccount(KEY.address, 500 * TOKEN),),
        manifest=content_digest(b"manifest"),
        weights_root=content_digest(b"weights"),
        chunks_root=NO_CHUNKS,
        shard_count=0,
        heldout=(content_digest(b"h"),),
        general=(content_digest(b"g"),),
        canaries=(content_digest(b"c"),),
    )


class Home:
    """A node's home and the commands that start it."""

    def __init__(self, folder: Path, key: SecretKey = KEY, network: Genesis | None = None) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        text = write_key_file(key, "open sesame", ops=argon2id.OPSLIMIT_MIN, memory_bytes=argon2id.MEMLIMIT_MIN)
        (self.home / "key.json").write_text(text)
        (self.home / "key.json").chmod(0o600)
        (folder / "passphrase").write_text("open sesame\n")
        (folder / "passphrase").chmod(0o600)
        (folder / "genesis.json").write_text(dump_genesis(network or genesis()))

    def command(self, **changed: str) -> list[str]:
        options = {
            "home": str(self.home),
            "listen": "127.0.0.1:0",
            "http": "127.0.0.1:0",
            "genesis": str(self.folder / "genesis.json"),
            "roles": "validator,informant",
            "passphrase-file": str(self.folder / "passphrase"),
            "log-format": "json",
        } | {name.replace("_", "-"): value for name, value in changed.items()}
        return [
            sys.executable,
            "-m",
            "deepshard.node",
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]

    def refused(self, **changed: str) -> str:
        """Start a node that must refuse: its one line."""
        done = subprocess.run(
            self.command(**changed),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 2, done.stderr
        lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("deepshard: ")
        assert "Traceback" not in done.stderr
        return lines[0]

    @contextmanager
    def running(self, **changed: str) -> Iterator[Running]:
        process = subprocess.Popen(self.command(**changed), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        node = Running(self, process)
        try:
            yield node
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


class Running:
    """A running node, its log read line by line."""

    def __init__(self, home: Home, process: subprocess.Popen[bytes]) -> None:
        self.home = home
        self.process = process
        self.events: list[dict[str, Any]] = []
        self._rest = b""

    def wait_for(self, event: str, **facts: Any) -> dict[str, Any]:
        """Read the log until an event with these facts appears."""
        seen = 0
        while True:
            for entry in self.events[seen:]:
                if entry.get("event") == event and all(entry.get(name) == value for name, value in facts.items()):
                    return entry
            seen = len(self.events)
            self._read()

    def _read(self) -> None:
        assert self.process.stderr is not None
        ready, _, _ = select.select([self.process.stderr], [], [], PATIENCE_S)
        assert ready, f"no log line within {PATIENCE_S} s; last: {self.events[-3:]}"
        data = os.read(self.process.stderr.fileno(), 1 << 16)
        assert data, f"the node ended: {self.events[-3:]} {self._rest!r}"
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.events += [json.loads(line) for line in lines if line.startswith(b"{")]

    def api(self) -> httpx.Client:
        access = json.loads((self.home.home / "api.json").read_text())
        headers = {"Authorization": f"Bearer {access['token']}"}
        return httpx.Client(base_url=f"http://{access['http']}", headers=headers, timeout=30.0, trust_env=False)

    def stop(self) -> int:
        """SIGTERM, then the exit code; the log is drained so that the node can't block on it."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        self._rest += self.process.stderr.read()
        for line in self._rest.split(b"\n"):
            if line.startswith(b"{"):
                self.events.append(json.loads(line))
        return self.process.wait(PATIENCE_S)


def test_help_teaches_and_loads_little() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "deepshard.node", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--genesis" in done.stdout
    assert "deepshard keys new" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert imported.isdisjoint({"torch", "transformers", "numpy", "trio", "sqlite3", "httpx"})


def test_a_node_decides_serves_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.running() as node:
        node.wait_for("node.ready")
        node.wait_for("block.committed", height=3)
        with node.api() as api:
            status = api.get("/v1/status").json()
            assert status["address"] == format_address(KEY.address)
            assert status["height"] >= 3
            assert status["supply"]["conserved"] is True
            assert api.get("/v1/status", headers={"Authorization": "Bearer wrong"}).status_code == 401
            block = api.get("/v1/blocks/3").json()
            assert (block["height"], block["round"], block["transactions"]) == (3, 0, 0)
            assert block["proposer"] == format_address(KEY.address)
            assert block["signers"] == [format_address(KEY.address)]
            beyond = api.get("/v1/blocks/1000000")
            assert (beyond.status_code, beyond.json()["error"]["message"][:24]) == (404, "no such block: 1000000, ")
        assert (home.home / "api.json").stat().st_mode & 0o777 == 0o600
        process = psutil.Process(node.process.pid)
        assert process.memory_info().rss < 120 * 1024 * 1024
        assert not any("torch" in mapped.path for mapped in process.memory_maps())
        node.process.kill()
        node.process.wait()
    with home.running() as node:
        restored = node.wait_for("chain.restored")
        assert restored["height"] >= 3
        node.wait_for("block.committed", height=restored["height"] + 2)
        with node.api() as api:
            known = api.get("/v1/blocks/3").json()["block_id"]
        assert node.stop() == 0
        assert node.events[-1]["event"] == "node.stopped"
    other = home.refused(trust=f"3:{'ab' * 32}")
    assert f"has {known} there" in other
    assert not (home.home / "api.json").exists()


def test_what_a_person_may_ask_wrongly_of_a_running_node(tmp_path: Path) -> None:
    with Home(tmp_path).running() as node:
        node.wait_for("node.ready")
        node.wait_for("block.committed", height=1)
        good: dict[str, object] = {
            "text": "A sentence.",
            "title": "t",
            "language": "en",
            "licence": "CC0-1.0",
            "stake": 10 * TOKEN,
        }
        with node.api() as api:
            mistakes: list[tuple[dict[str, object], str]] = [
                ({"stake": 501 * TOKEN}, "above the balance"),
                ({"text": ""}, "empty"),
                ({"text": " \n\n "}, "empty"),
                ({"text": "a\x00b"}, ""),
                ({"stake": 1}, ""),
                ({"stake": -5}, ""),
                ({"surprise": 1}, ""),
            ]
            for change, expected in mistakes:
                answer = api.post("/v1/propose", json=good | change)
                assert answer.status_code == 400, (change, answer.text)
                assert expected in answer.json()["error"]["message"], (change, answer.text)
            assert api.get("/v1/explain/round-7").status_code == 404
            assert api.get(f"/v1/explain/{'ab' * 32}").status_code == 404
            assert api.get("/v1/accounts/ds1nonsense").status_code == 400
            assert api.post("/v1/licence", json={"price_max": 1}).status_code == 400
            before = api.get(f"/v1/accounts/{format_address(KEY.address)}").json()
            assert (before["balance"], before["locked"]) == (500 * TOKEN, 0)
            done = api.post("/v1/propose", json=good).json()
            assert done["segments"] == 1
            after = api.get(f"/v1/accounts/{format_address(KEY.address)}").json()
            assert after["locked"] == 10 * TOKEN
            assert [proposal["id"] for proposal in api.get("/v1/proposals").json()] == [done["proposal"]]
        assert node.stop() == 0


def test_every_wrong_start_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    home = Home(tmp_path / "a")
    (tmp_path / "wrong").write_text("sesame\n")
    (tmp_path / "wrong").chmod(0o600)
    assert "wrong passphrase" in home.refused(passphrase_file=str(tmp_path / "wrong"))
    assert "genesis" in home.refused(genesis=str(tmp_path / "nowhere.json"))
    (tmp_path / "broken.json").write_text('{"chain_id": "x"}')
    assert "genesis" in home.refused(genesis=str(tmp_path / "broken.json"))
    assert "unknown role" in home.refused(roles="emperor")
    for wrong in ("7", "x:" + "ab" * 32, "7:abcd", "0:" + "ab" * 32):
        assert "HEIGHT:ID" in home.refused(roles="inference", trust=wrong)
    assert "HEIGHT:ID" in home.refused(trust="7")
    assert "snapshot_gap_blocks is -1" in home.refused(snapshot_gap="-1")
    assert "scoring_memory is -1.0: give MiB, or 0 for half of what the machine has left" in home.refused(
        scoring_memory="-1"
    )
    assert "Invalid enum value 'fast' - at `$.scoring`" in home.refused(scoring="fast")
    assert "upload_rate is -1.0: give MiB per second, or 0 for no cap" in home.refused(upload_rate="-1")
    assert "download_rate is nan" in home.refused(download_rate="nan")
    assert "keys new" in home.refused(home=str(tmp_path / "empty"))
    assert "127.0.0.1" in home.refused(peers="127.0.0.1")
    assert "is not TOML" in home.refused(config=str(tmp_path / "broken.json"))
    (tmp_path / "other.toml").write_text('colour = "blue"\n')
    assert "colour" in home.refused(config=str(tmp_path / "other.toml"))
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in home.refused(listen=f"127.0.0.1:{port}")
        assert f"127.0.0.1:{port}" in home.refused(http=f"127.0.0.1:{port}")
    assert not (home.home / "api.json").exists()


def test_two_nodes_cannot_share_a_home_nor_a_home_two_networks(tmp_path: Path) -> None:
    home = Home(tmp_path / "a")
    with home.running() as node:
        node.wait_for("node.ready")
        assert "another node is running" in home.refused()
        node.wait_for("block.committed", height=1)
        assert node.stop() == 0
    (tmp_path / "other.json").write_text(dump_genesis(genesis("another-network")))
    assert "genesis" in home.refused(genesis=str(tmp_path / "other.json"))


@pytest.mark.parametrize("difference", ["genesis", "chain"])
def test_a_node_of_another_network_is_refused_and_both_say_so(tmp_path: Path, difference: str) -> None:
    other = genesis("another") if difference == "chain" else msgspec.structs.replace(genesis(), time_ms=1)
    ours, theirs = Home(tmp_path / "a"), Home(tmp_path / "b", OTHER, other)
    with ours.running() as first:
        listen = first.wait_for("node.ready")["listen"]
        with theirs.running(peers=listen, roles="informant") as second:
            ends = [first.wait_for("peer.refused"), second.wait_for("peer.refused")]
            assert {end["reason"] for end in ends} == {f"{difference}-mismatch"}
            first.wait_for("block.committed")
            assert second.process.poll() is None


def test_settings_come_from_file_environment_and_command_line_in_that_order(tmp_path: Path) -> None:
    home = Home(tmp_path)
    config = tmp_path / "node.toml"
    config.write_text('roles = ["validator"]\nlisten = "127.0.0.1:1"\nhttp = "127.0.0.1:1"\nlog_level = "warning"\n')
    command = [sys.executable, "-m", "deepshard.node", "--config", str(config), "--listen", "127.0.0.1:0"]
    environment = os.environ | {
        "DEEPSHARD_HOME": str(home.home),
        "DEEPSHARD_GENESIS": str(tmp_path / "genesis.json"),
        "DEEPSHARD_PASSPHRASE": "open sesame",
        "DEEPSHARD_HTTP": "127.0.0.1:0",
        "DEEPSHARD_LOG_LEVEL": "info",
        "DEEPSHARD_LOG_FORMAT": "json",
    }
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    node = Running(home, process)
    try:
        assert node.wait_for("node.starting")["roles"] == ["validator"]
        assert not node.wait_for("node.ready")["listen"].endswith(":1")
    finally:
        assert node.stop() == 0
        assert process.stderr is not None
        process.stderr.close()
