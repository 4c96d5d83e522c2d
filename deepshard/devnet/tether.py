"""Starts a program that dies with its parent: `python -I -S tether.py PARENT_PID NETNS PROGRAM ARGUMENT...`.

NETNS is the number of an inherited open file of the network namespace to run it in, or -1 for the parent's own.

A child of a killed process lives on, and ten orphaned nodes would hold ports and memory. Linux can send a signal at the
parent's death (prctl(2), PR_SET_PDEATHSIG), but only to a process that asks for itself, and the request survives
execve. So this file asks and then becomes the program. That needs no code between fork and exec in the threaded
parent, which `preexec_fn` would. The signal is SIGKILL: there is nobody left to wait for a clean end.

Elsewhere than on Linux it only becomes the program; an ordinary end of the parent still ends its children.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000


def main() -> None:
    """Tether this process to the parent named in the arguments, then become the program."""
    parent, namespace, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            sys.exit(f"tether: prctl failed with errno {ctypes.get_errno()}")
        if os.getppid() != parent:  # it died before prctl: no signal will come
            sys.exit("tether: the parent is gone")
        if namespace >= 0:
            if libc.setns(namespace, CLONE_NEWNET) != 0:
                sys.exit(f"tether: setns failed with errno {ctypes.get_errno()}")
            os.close(namespace)
    os.execv(program[0], program)  # noqa: S606 # the command is the orchestrator's own list, and a shell would be worse


if __name__ == "__main__":
    main()
