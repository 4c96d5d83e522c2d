"""A cable of a validator's own namespace, pulled and plugged in again; a process of its own leaves the machine's."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from machine_namespaces import why_no_namespaces  # noqa: F401  # a fixture

SCRIPT = """
import json, os, socket, sys
from pathlib import Path

import trio
from deepshard.devnet.namespaces import HUB_HOST, open_network
from deepshard.devnet.processes import open_processes

ECHO = '''
import socket, sys
with socket.create_server((sys.argv[1], 7)) as peers, socket.create_server((sys.argv[2], 7)) as api:
    print("ready", flush=True)
    watched, _ = api.accept()
    stream, _ = peers.accept()
    while True:
        data = stream.recv(100)
        stream.sendall(data)
        watched.sendall(data)
'''

network = open_network(["one", "two"])
one, two = network.islands["one"], network.islands["two"]
facts = {"hosts": [one.host, two.host], "hub": Path("/proc/thread-self/ns/net").stat().st_ino}

def reachable(host):
    try:
        socket.create_connection((host, 7), 0.5).close()
    except TimeoutError:
        return "silence"
    except OSError as error:
        return type(error).__name__
    return "yes"

async def main():
    async with open_processes() as processes:
        command = [sys.executable, "-c", ECHO, one.host, one.api_host]
        island = processes.start("one", command, role="test", log_path=Path(sys.argv[1]), namespace=one.handle)
        with trio.fail_after(60):
            while "ready" not in Path(sys.argv[1]).read_text():
                await trio.lowlevel.checkpoint()
        facts["island"] = Path(f"/proc/{island.pid}/ns/net").stat().st_ino
        watch = socket.create_connection((one.api_host, 7), 60)
        with socket.create_connection((one.host, 7), 60) as link:
            link.sendall(b"before")
            facts["before"] = [link.recv(100).decode(), watch.recv(100).decode()]
            await network.cut("one")
            link.sendall(b"during")
            link.settimeout(0.5)
            try:
                facts["during"] = link.recv(100).decode()
            except TimeoutError:
                facts["during"] = "silence"
            facts["other island"] = reachable(two.host)
            await network.mend("one")
            link.settimeout(60)
            facts["after"] = [link.recv(100).decode(), watch.recv(100).decode()]
        facts["entered"] = os.readlink("/proc/self/ns/net")
        facts["command"] = network.enter_command
        print(json.dumps(facts), flush=True)
        sys.stdin.read()

trio.run(main)
"""


def test_a_pulled_cable_loses_packets_and_refuses_nothing(tmp_path: Path, why_no_namespaces: str) -> None:
    if why_no_namespaces:
        pytest.skip(why_no_namespaces)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        # Another terminal gets in with the command that a person is told.
        enter = [*shlex.split(facts["command"]), "readlink", "/proc/self/ns/net"]
        entered = subprocess.run(enter, capture_output=True, text=True, check=True).stdout.strip()
        process.communicate()
    assert process.returncode == 0
    assert facts["hosts"] == ["10.77.0.2", "10.77.0.3"]
    assert len({facts["hub"], facts["island"], Path("/proc/self/ns/net").stat().st_ino}) == 3
    assert facts["before"] == ["before", "before"]
    assert facts["during"] == "silence"
    # Nobody listens there, and is heard to say so: only the one cable was pulled.
    assert facts["other island"] == "ConnectionRefusedError"
    assert facts["after"] == ["during", "during"]
    assert entered == facts["entered"] == f"net:[{facts['hub']}]"
