"""shardcast: HTTP, shards of 50 MB, ten downloads at a time, the whole file checked by SHA-256 at the end.

`seed FOLDER BLOBS` prints where it listens, `leech FOLDER BLOBS ADDRESS` how many seconds it took.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from importlib import import_module
from pathlib import Path


def _seed(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = import_module("shardcast").OriginServer(str(folder / "shardcast"), port)
    (folder / "shardcast" / "data1.bin").write_bytes(bytes(1024))  # clients measure servers by it first
    version = server.broadcast(str(folder / "file"))
    print(f"http://127.0.0.1:{port} {version}", flush=True)
    while True:
        time.sleep(60)


def _leech(folder: Path, where: str) -> float:
    url, _, version = where.partition(" ")
    client = import_module("shardcast").ClientNode([url], str(folder))
    started = time.perf_counter()
    assert client.download_version(version) is not None
    return time.perf_counter() - started


if __name__ == "__main__":
    logging.disable()
    if sys.argv[1] == "seed":
        _seed(Path(sys.argv[2]))
    else:
        print(_leech(Path(sys.argv[2]), sys.argv[4]), flush=True)
