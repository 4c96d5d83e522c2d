"""Nodes in memory that exchange shards, and ways to alter what one of them sends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from deepshard.disk.chunks import ChunkStore
from deepshard.net.types import PeerInfo
from deepshard.services.shards import ShardExchange
from deepshard.testing.memory_network import MemoryNetwork, MemoryPort, Tamper
from deepshard.wire.messages import Message


@dataclass
class Node:
    port: MemoryPort
    store: ChunkStore
    exchange: ShardExchange

    @property
    def key(self) -> bytes:
        return self.port.info.public_key


class Cluster:
    def __init__(self, root: Path, nursery: trio.Nursery, disk_threads: int) -> None:
        self.disk_threads = disk_threads
        self.network = MemoryNetwork()
        self.root = root
        self.nursery = nursery

    def node(
        self,
        name: str,
        blobs: list[bytes] | None = None,
        *,
        may_fetch: Callable[[PeerInfo, bytes], bool] = lambda _peer, _digest: True,
        **options: Any,
    ) -> Node:
        port = self.network.join(name)
        store = ChunkStore(self.root / name)
        for data in blobs or []:
            store.put(data)
        defaults = {"request_timeout_s": 10.0, "have_interval_s": 1.0, "disk_threads": self.disk_threads}
        exchange = ShardExchange(port, store, may_fetch, **{**defaults, **options})
        self.nursery.start_soon(port.deliver, exchange.mailbox.put)
        self.nursery.start_soon(exchange.run)
        return Node(port, store, exchange)


@asynccontextmanager
async def running(root: Path, *, disk_threads: int = 0) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        yield Cluster(root, nursery, disk_threads)
        nursery.cancel_scope.cancel()


def when(sender: str, kind: type[Message], change: Callable[[Any, bytes], tuple[Message, bytes] | None]) -> Tamper:
    def tamper(source: str, _target: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
        if source == sender and isinstance(message, kind):
            return change(message, attachment)
        return message, attachment

    return tamper
