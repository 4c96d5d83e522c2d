"""What this machine allows of network namespaces."""

from __future__ import annotations

import subprocess

import pytest

_BRIDGE_AND_VETH = "ip link add name b type bridge && ip link add name v type veth peer name w"


@pytest.fixture(scope="session")
def why_no_namespaces() -> str:
    """Why this machine allows no partition; empty where it does. Asked of the machine's tools, not of our code."""
    reason = ""
    for command in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        try:
            tried = subprocess.run(
                [*command, "sh", "-c", _BRIDGE_AND_VETH], capture_output=True, text=True, check=False
            )
        except FileNotFoundError as error:
            return f"no partition on this machine: {error}"
        if tried.returncode == 0:
            return ""
        reason = f"no partition on this machine: {' '.join(command)}: {tried.stderr.strip()}"
    return reason
