"""`deepshard weights fetch` and `ls --node` against a served node."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import trio

from deepshard.api.app import create_app, serve
from deepshard.api.backend import Json
from deepshard.testing.backend import ScriptedBackend

TOKEN = "s3cret"
Result = tuple[int, str, str]


class Downloading(ScriptedBackend):
    """A node whose download goes on with each question."""

    def __init__(self, *answers: Json) -> None:
        super().__init__()
        self.answers = list(answers)

    async def download(self) -> Json:
        return self.answers.pop(0)


def answer(state: str, verified: int, error: str = "") -> Json:
    return {
        "version": 3,
        "state": state,
        "manifest": "ab" * 32,
        "weights_root": "cd" * 32,
        "chunks_done": verified,
        "chunks_total": 8,
        "chunks_verified": verified,
        "bytes_by_peer": {},
        "error": error,
        "history": [],
    }


async def weights(home: Path, *arguments: str) -> Result:
    done = await trio.run_process(
        [sys.executable, "-m", "deepshard.cli.main", "weights", *arguments],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "DEEPSHARD_HOME": str(home), "DEEPSHARD_TOKEN": TOKEN},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def served(nursery: trio.Nursery, home: Path, *answers: Json) -> tuple[Downloading, str]:
    backend = Downloading(*answers)
    address = await nursery.start(serve, create_app(backend, token=TOKEN, serve_chat=True), "127.0.0.1:0")
    (home / "api.json").write_text(json.dumps({"http": address, "token": TOKEN}))
    return backend, address


async def test_fetch_follows_the_nodes_download_to_its_end(nursery: trio.Nursery, tmp_path: Path) -> None:
    backend, _ = await served(nursery, tmp_path, answer("downloading", 0), answer("downloading", 5), answer("ready", 8))
    code, out, err = await weights(tmp_path, "fetch", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"version": 3, "manifest": "ab" * 32, "weights_root": "cd" * 32, "chunks_total": 8}
    assert backend.answers == []


@pytest.mark.parametrize(
    ("state", "code", "message"),
    [
        ("unlicensed", 2, "buy one with `deepshard licence buy`"),
        ("failed", 1, "could not fetch version 3: no peer has it"),
    ],
)
async def test_fetch_says_why_there_is_nothing_to_wait_for(
    state: str, code: int, message: str, nursery: trio.Nursery, tmp_path: Path
) -> None:
    await served(nursery, tmp_path, answer(state, 0, "no peer has it"))
    found, out, err = await weights(tmp_path, "fetch")
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert message in err


async def test_ls_asks_a_node_what_it_has(nursery: trio.Nursery, tmp_path: Path) -> None:
    _, address = await served(nursery, tmp_path)
    code, out, _ = await weights(tmp_path, "ls", "--node", address, "--json")
    assert code == 0
    assert json.loads(out).keys() == {"model", "storage"}
    code, out, err = await weights(tmp_path, "ls", "latest", "--node", address)
    assert (code, out) == (2, "")
    assert "a node lists no tensors" in err
