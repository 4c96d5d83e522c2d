"""The command and the plugin, as a person runs them against a real node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from socket import socket
from xml.etree import ElementTree as ET

import msgspec
import trio
from solo_network import ACCOUNT, VALIDATOR, SoloNode, solo_genesis, solo_node

from deepshard.ledger.genesis import dump_genesis

USAGE = 2


async def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(120):
        return await trio.run_process(
            [sys.executable, "-m", *arguments], capture_stdout=True, capture_stderr=True, check=False
        )


async def judge(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return await run("deepshard.conformance", *arguments)


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line of a run that couldn't judge."""
    assert done.returncode == USAGE, done
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("deepshard.conformance: ")
    assert done.stdout == b""
    return lines[0]


async def test_what_cannot_be_judged_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    with closing(socket()) as deaf:
        deaf.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{deaf.getsockname()[1]}"
        assert "can't be reached" in refused(await judge("--target", nobody))
    assert "no target" in refused(await judge())
    assert "is not an address" in refused(await judge("--target", "nonsense"))
    assert "give a chapter" in refused(await judge("--target", nobody, "--only", "x"))
    assert "no case is filed under it" in refused(await judge("--target", nobody, "--only", "5.99"))
    assert "go together" in refused(await judge("--target", nobody, "--chain-id", "x"))
    assert "cannot read the genesis file" in refused(
        await judge("--target", nobody, "--genesis", str(tmp_path / "nowhere"))
    )


async def test_another_protocol_at_the_address_is_said_to_be_one() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mail.example ESMTP\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        port = listeners[0].socket.getsockname()[1]
        assert "doesn't speak this protocol" in refused(await judge("--target", f"127.0.0.1:{port}"))
        nursery.cancel_scope.cancel()


async def test_the_list_shows_every_case_and_needs_no_target() -> None:
    done = await judge("--list", "--only", "5.7")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert any(line.startswith("5.7/1") and "2^64 - 1" in line for line in lines)
    assert all(line.startswith("5.7/") for line in lines[:-1])
    assert lines[-1] == f"{len(lines) - 1} cases"


async def test_a_node_is_judged_by_command_and_by_plugin(tmp_path: Path) -> None:
    async with solo_node(tmp_path, blocks=0) as node:
        await _judged_by_command(node, tmp_path)
        await _asked_for_another(node, tmp_path)
        await _judged_by_plugin(node, tmp_path)


async def _judged_by_command(node: SoloNode, folder: Path) -> None:
    """Without being told the network: the suite asks for it."""
    junit, report = folder / "junit.xml", folder / "report.json"
    done = await judge(
        "--target", node.listen, "--only", "5.7/1", "--only", "4.6/4", "--junit", str(junit), "--json", str(report)
    )
    assert done.returncode == 0, done
    assert "the target conforms" in done.stdout.decode()
    assert "5.7/1" in done.stdout.decode()
    facts = json.loads(report.read_text())
    assert facts["conforms"] is True
    assert {each["outcome"] for each in facts["results"]} == {"passed"}
    assert {"5.7/1", "4.6/4"} <= {clause for each in facts["results"] for clause in each["clauses"]}
    suites = ET.parse(junit).getroot()
    assert [suite.get("name", "").partition(" ")[0] for suite in suites] == ["4", "5"]
    assert sum(len(suite) for suite in suites) == len(facts["results"])


async def _asked_for_another(node: SoloNode, folder: Path) -> None:
    other = folder / "other.json"
    other.write_text(dump_genesis(msgspec.structs.replace(solo_genesis(), time_ms=1)))
    assert "genesis-mismatch" in refused(await judge("--target", node.listen, "--genesis", str(other)))
    wrong = await judge("--target", node.listen, "--chain-id", "elsewhere", "--genesis-hash", "00" * 32)
    assert "chain-mismatch" in refused(wrong)
    assert VALIDATOR.public.hex() in refused(await judge("--target", node.listen, "--key", ACCOUNT.public.hex()))
    right = await judge("--target", node.listen, "--key", VALIDATOR.public.hex(), "--only", "5.9/1")
    assert right.returncode == 0, right


async def _judged_by_plugin(node: SoloNode, folder: Path) -> None:
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    plugins = ["-p", "deepshard.conformance.plugin", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--rootdir", ".", *plugins]
    empty = folder / "empty"
    empty.mkdir()
    done = await trio.run_process(
        [*command, "--deepshard-target", node.listen, "--deepshard-only", "5.7/1"],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        cwd=empty,
        env=environment,
    )
    assert done.returncode == 0, done
    assert b"PASSED conformance::5.7/1 ping[2^63]" in done.stdout, done.stdout
    nothing = await trio.run_process(command, capture_stdout=True, check=False, cwd=empty, env=environment)
    assert b"no tests ran" in nothing.stdout
