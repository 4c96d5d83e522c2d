"""The limit: a plain socket, a mebibyte a call, one BLAKE3 pass, and files of two mebibytes, synced and renamed.

`seed FOLDER BLOBS` prints where it listens, `leech FOLDER BLOBS ADDRESS` how many seconds it took.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

from deepshard.limits import MIB

from .exchange import BLOB_BYTES

WRITERS = 4


def _seed(folder: Path, blobs: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(f"127.0.0.1:{server.getsockname()[1]}", flush=True)
        connection, _ = server.accept()
        with connection, (folder / "file").open("rb") as file:
            for _ in range(blobs * BLOB_BYTES // MIB):
                connection.sendall(file.read(MIB))
            connection.recv(1)


def _leech(folder: Path, blobs: int, address: str) -> float:
    folder.mkdir(parents=True)
    host, _, port = address.rpartition(":")
    buffers = [bytearray(BLOB_BYTES) for _ in range(2 * WRITERS)]

    def keep(number: int, buffer: bytearray) -> bytearray:
        name = blake3(buffer).hexdigest()
        with (folder / f"{number}.part").open("wb") as file:
            file.write(buffer)
            os.fsync(file.fileno())
        (folder / f"{number}.part").rename(folder / name)
        return buffer

    with socket.create_connection((host, int(port))) as connection, ThreadPoolExecutor(WRITERS) as pool:
        started = time.perf_counter()
        kept: list[Future[bytearray]] = []
        for number in range(blobs):
            buffer = buffers.pop() if buffers else kept.pop(0).result()
            connection.recv_into(buffer, BLOB_BYTES, socket.MSG_WAITALL)
            kept.append(pool.submit(keep, number, buffer))
        for each in kept:
            each.result()
        return time.perf_counter() - started


if __name__ == "__main__":
    if sys.argv[1] == "seed":
        _seed(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        print(_leech(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]), flush=True)
