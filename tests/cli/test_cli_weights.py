"""`deepshard weights` as people run it: in processes of its own, killed at any moment, with bad input."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

COMMAND = [sys.executable, "-m", "deepshard.cli.main", "weights"]
ROWS, WIDTH, LAYERS = 3072, 1024, 4
SHARD_BYTES = 2 * ROWS * WIDTH // 8
"""Each layer has two tensors of eight shards."""


def weights(home: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "DEEPSHARD_HOME": str(home)},
    )
    return done.returncode, done.stdout, done.stderr


def killed(home: Path, *arguments: str, when: Callable[[], bool]) -> None:
    """Run a command until something is so, and kill it then."""
    process = subprocess.Popen(
        ["nice", "-n", "19", *COMMAND, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "DEEPSHARD_HOME": str(home)},
    )
    while not when():
        assert process.poll() is None, "it ended before it could be killed"
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight tensors of 6 MiB, cut into rows and into columns, with a configuration."""
    directory = tmp_path_factory.mktemp("weights") / "model"
    directory.mkdir()
    header: dict[str, object] = {}
    data, noise = bytearray(), Random(1)
    for layer in range(LAYERS):
        for name in ("up_proj", "down_proj"):
            start = len(data)
            data += noise.randbytes(2 * ROWS * WIDTH)
            stated = {"dtype": "BF16", "shape": [ROWS, WIDTH], "data_offsets": [start, len(data)]}
            header[f"model.layers.{layer}.mlp.{name}.weight"] = stated
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    return directory


def tensors_of(directory: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in directory.glob("*.safetensors"):
        data = path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        for name, stated in header.items():
            if name != "__metadata__":
                start, end = (8 + length + offset for offset in stated["data_offsets"])
                found[name] = data[start:end]
    return found


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_a_model_goes_in_is_listed_verified_compared_and_comes_out(model: Path, tmp_path: Path) -> None:
    code, out, err = weights(tmp_path, "import", str(model), "--json")
    assert (code, err) == (0, "")
    made = json.loads(out)
    assert (made["tensors"], made["decoded_bytes"], made["resumed_bytes"]) == (8, 64 * SHARD_BYTES, 0)
    assert made["store"] == str(tmp_path / "chunks")
    code, out, _ = weights(tmp_path, "ls", "--json")
    assert [(row["manifest"], row["state"]) for row in json.loads(out)] == [(made["manifest"], "whole")]
    code, out, _ = weights(tmp_path, "ls", "latest", "--layers", "1-2", "--rank", "1/8", "--json")
    part = json.loads(out)
    assert {row["name"].split(".")[2] for row in part["tensors"]} == {"1", "2"}
    assert part["bytes"] == 4 * SHARD_BYTES
    assert weights(tmp_path, "verify", made["manifest"][:8])[0] == 0
    code, out, _ = weights(tmp_path, "diff", "latest", made["manifest"], "--json")
    assert (json.loads(out)["shards_changed"], json.loads(out)["bytes_to_fetch"]) == (0, 0)
    code, out, err = weights(tmp_path, "export", "latest", str(tmp_path / "out"))
    assert (code, err) == (0, "")
    assert tensors_of(tmp_path / "out") == tensors_of(model)
    assert (tmp_path / "out/config.json").read_bytes() == (model / "config.json").read_bytes()
    # A flipped bit is found, named, and mended by importing again.
    chunk = max((tmp_path / "chunks").glob("??/*"), key=size)
    data = chunk.read_bytes()
    chunk.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, out, err = weights(tmp_path, "verify", "latest")
    assert code == 1
    assert "does not have the content its name states" in out
    assert err.startswith("deepshard: 1 parts of ")
    assert weights(tmp_path, "import", str(model))[0] == 0
    assert weights(tmp_path, "verify", "latest")[0] == 0


def test_import_and_export_that_are_killed_go_on_where_they_were(model: Path, tmp_path: Path) -> None:
    def journalled() -> bool:
        return any(size(path) > 3000 for path in (tmp_path / "chunks/imports").glob("*.journal"))

    killed(tmp_path, "import", str(model), when=lambda: any((tmp_path / "chunks").glob("??/*")))
    killed(tmp_path, "import", str(model), when=journalled)
    code, out, _ = weights(tmp_path, "import", str(model), "--json")
    made = json.loads(out)
    assert code == 0
    assert made["resumed_bytes"] > 10 * SHARD_BYTES  # a record is about 140 bytes
    out_dir = tmp_path / "out"
    chunk = max((tmp_path / "chunks").glob("??/*"), key=size)
    chunk.rename(tmp_path / "aside")
    os.mkfifo(chunk)  # whoever reads it waits
    killed(tmp_path, "export", "latest", str(out_dir), when=lambda: size(out_dir / ".deepshard-export-shards") > 0)
    (tmp_path / "aside").replace(chunk)
    assert not (out_dir / "model.safetensors").exists()
    code, out, _ = weights(tmp_path, "export", "latest", str(out_dir), "--json")
    assert code == 0
    assert json.loads(out)["resumed_bytes"] > 0
    assert tensors_of(out_dir) == tensors_of(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "{model}/model.safetensors", "--store", "/sys/deepshard"], "choose another folder"),
        (["import", "{model}", "--dtype", "fp4"], "--dtype is keep or bf16, not fp4"),
        (["export", "latest", "{home}/out"], "nothing was imported there"),
        (["ls", "abc"], "no version 'abc'"),
        (["ls", "--layers", "1-2"], "--layers and --rank need a version"),
        (["fetch", "--layers", "1-2"], "it can't yet be asked for some layers"),
        (["fetch", "--layers", "x"], "'x' are no layers"),
        (["fetch", "--rank", "3"], "'3' is no rank"),
        (["fetch"], "no node is running in"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], message: str, model: Path, tmp_path: Path) -> None:
    filled = [part.format(model=model, home=tmp_path) for part in arguments]
    code, out, err = weights(tmp_path, *filled)
    assert code in {1, 2}
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
