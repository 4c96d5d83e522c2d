"""A network of its own for a devnet in which cables are pulled: Linux network namespaces, and `ip` of iproute2.

The whole devnet moves into a new namespace, the hub. A validator that is to be cut off gets a second one, an island,
with two cables to the hub: one that carries what nodes say to each other and can be pulled, and one for its HTTP API,
over which it can still be watched. Nothing is changed on the machine itself, and all of it is gone with the last
process of the devnet, however that ends.

Whoever may not make a network namespace may do so inside a new user namespace, where the kernel allows that.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from deepshard.errors import LocalError, UsageError

CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
HUB_HOST: Final = "10.77.0.1"
_BRIDGE: Final = "peers"
_ISLAND_PEERS: Final = "peers"
_ISLAND_API: Final = "api"


@dataclass(frozen=True, slots=True)
class Island:
    """A validator's own namespace: `handle` is an open file of it, `host` its address to peers, `api_host` to us."""

    handle: int
    host: str
    api_host: str
    cable: str


@dataclass
class PrivateNetwork:
    """The namespaces of one devnet; the process that made it is in the hub."""

    islands: dict[str, Island] = field(default_factory=dict)
    in_user_namespace: bool = False

    @property
    def enter_command(self) -> str:
        """What to write before a command in another terminal, to run it in the hub."""
        user = " --user --preserve-credentials" if self.in_user_namespace else ""
        return f"nsenter --target {os.getpid()}{user} --net"

    async def cut(self, name: str) -> None:
        """Pull the cable: what is sent either way is lost.

        Raises:
            LocalError: `ip` failed.
        """
        await self._set(name, "down")

    async def mend(self, name: str) -> None:
        """Plug the cable in again.

        Raises:
            LocalError: `ip` failed.
        """
        await self._set(name, "up")

    async def _set(self, name: str, state: str) -> None:
        await trio.to_thread.run_sync(_ip, "link", "set", self.islands[name].cable, state)


def open_network(names: Sequence[str]) -> PrivateNetwork:
    """Move this process into a hub of its own, and give each of `names` an island.

    Call it before the process has threads: only the calling one moves, and children follow it.

    Raises:
        UsageError: this machine doesn't allow it; says why.
    """
    if sys.platform != "linux" or shutil.which("ip") is None:
        missing = "Linux" if sys.platform != "linux" else "the program `ip` (iproute2)"
        raise UsageError(f"a partition needs {missing}, which is not here: leave out --fault partition:...")
    network = PrivateNetwork()
    try:
        network.in_user_namespace = _leave_the_machine()
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "name", _BRIDGE, "type", "bridge")
        _ip("address", "add", f"{HUB_HOST}/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        hub = _open_own()
        for number, name in enumerate(names, 1):
            network.islands[name] = _make_island(number, hub)
        os.close(hub)
    except (OSError, LocalError) as error:
        raise UsageError(f"this machine allows no partition ({error}): leave out --fault partition:...") from None
    return network


def _leave_the_machine() -> bool:
    """Enter a new network namespace; says whether that took a user namespace."""
    try:
        _call("unshare", CLONE_NEWNET)
    except PermissionError:
        user, group = os.geteuid(), os.getegid()
        _call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        return True
    return False


def _make_island(number: int, hub: int) -> Island:
    """A namespace with both cables plugged in; this process is back in the hub afterwards."""
    host, api_host, api_hub = f"10.77.0.{number + 1}", f"10.77.{number}.2", f"10.77.{number}.1"
    cable, api_cable = f"peers{number}", f"api{number}"
    _call("unshare", CLONE_NEWNET)
    try:
        island = _open_own()
        _ip("link", "set", "lo", "up")
        for inside, outside, address in (
            (_ISLAND_PEERS, cable, f"{host}/24"),
            (_ISLAND_API, api_cable, f"{api_host}/30"),
        ):
            other_end = ("peer", "name", outside, "netns", f"/proc/self/fd/{hub}")
            _ip("link", "add", "name", inside, "type", "veth", *other_end, pass_fds=(hub,))
            _ip("address", "add", address, "dev", inside)
            _ip("link", "set", inside, "up")
    finally:
        enter_namespace(hub)
    _ip("link", "set", cable, "master", _BRIDGE)
    _ip("address", "add", f"{api_hub}/30", "dev", api_cable)
    for outside in (cable, api_cable):
        _ip("link", "set", outside, "up")
    return Island(island, host, api_host, cable)


def _open_own() -> int:
    """An open file of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter_namespace(handle: int) -> None:
    """Move the calling thread into the network namespace of an open file.

    Raises:
        OSError: not allowed, or not such a file.
    """
    _call("setns", handle, CLONE_NEWNET)


def _call(function: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    called: Callable[..., int] = getattr(libc, function)
    if called(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def _ip(*arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
    command = ["ip", *arguments]
    done = subprocess.run(  # noqa: S603 # a list of our own
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, pass_fds=pass_fds
    )
    if done.returncode != 0:
        raise LocalError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
