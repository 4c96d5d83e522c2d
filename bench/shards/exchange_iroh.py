"""iroh: one raw QUIC stream over loopback, a mebibyte a call, one BLAKE3 pass for each two mebibytes, files synced.

`seed FOLDER BLOBS` prints where it listens, `leech FOLDER BLOBS ADDRESS` how many seconds it took.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from deepshard.limits import MIB

from .exchange import BLOB_BYTES

_ALPN: Final = b"deepshard-bench"


async def _endpoint() -> Any:  # noqa: ANN401  # of a package that need not be there
    iroh = import_module("iroh")
    iroh.iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())
    builder = iroh.EndpointBuilder()
    builder.apply_minimal()
    builder.relay_mode(iroh.RelayMode.disabled())
    builder.alpns([_ALPN])
    builder.bind_addr("127.0.0.1:0")
    return await builder.bind()


async def _seed(folder: Path, blobs: int) -> None:
    endpoint = await _endpoint()
    print(f"{endpoint.id()} {endpoint.bound_sockets()[0]}", flush=True)
    incoming = await endpoint.accept_next()
    connection = await (await incoming.accept()).connect()
    stream = await connection.open_uni()
    with (folder / "file").open("rb") as file:
        for _ in range(blobs * BLOB_BYTES // MIB):
            await stream.write_all(file.read(MIB))
    await stream.finish()
    await connection.closed()


async def _leech(folder: Path, blobs: int, where: str) -> float:
    iroh = import_module("iroh")
    endpoint = await _endpoint()
    name, _, address = where.partition(" ")
    peer = iroh.EndpointAddr(iroh.EndpointId.from_string(name), None, [address])
    connection = await endpoint.connect(peer, _ALPN)
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    stream = await connection.accept_uni()
    with ThreadPoolExecutor(4) as pool:
        kept = []
        for number in range(blobs):
            parts = [bytes(await stream.read_exact(MIB)) for _ in range(BLOB_BYTES // MIB)]
            kept.append(loop.run_in_executor(pool, _keep, folder, number, parts))
        await asyncio.gather(*kept)
    seconds = time.perf_counter() - started
    connection.close(0, b"")
    return seconds


def _keep(folder: Path, number: int, parts: list[bytes]) -> None:
    hasher = blake3()
    with (folder / f"{number}.part").open("wb") as file:
        for part in parts:
            hasher.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    (folder / f"{number}.part").rename(folder / hasher.hexdigest())


if __name__ == "__main__":
    if sys.argv[1] == "seed":
        asyncio.run(_seed(Path(sys.argv[2]), int(sys.argv[3])))
    else:
        Path(sys.argv[2]).mkdir(parents=True)
        print(asyncio.run(_leech(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])), flush=True)
