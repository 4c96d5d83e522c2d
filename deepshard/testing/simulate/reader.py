"""A light client in the simulated network: what it trusts has to be what honest nodes decided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from deepshard.disk.journal import Journal
from deepshard.identity import SecretKey
from deepshard.ledger.params import Genesis
from deepshard.net.types import NetworkEvent, PeerInfo
from deepshard.services.light import LightClient
from deepshard.testing.simulate.log import NODE
from deepshard.testing.simulate.network import Network, Port
from deepshard.testing.simulate.node import MemoryFiles
from deepshard.testing.simulate.oracle import Oracle


class Reader:
    """One light client, from its beginning to the end of the run."""

    def __init__(self, genesis: Genesis, network: Network, oracle: Oracle, number: int, key: SecretKey) -> None:
        info = PeerInfo(key.public, key.address, ("inference",), "light:0", outbound=True)
        self.port = Port(network, "light", number, info)
        self._oracle, self._genesis = oracle, genesis
        self._client = LightClient(
            genesis=genesis,
            network=self.port,
            journal=Journal(Path("/light/journal"), files=MemoryFiles()),
            now_ms=lambda: genesis.time_ms + 1 + int(trio.current_time() * 1000),
            heard=lambda _: self._check(),
        )
        self.port.take = self._take

    def _take(self, event: NetworkEvent) -> bool:
        return self._client.mailbox.offer(event)

    def _check(self) -> None:
        trusted = self._client.trusted
        if trusted.height > 0:
            self._oracle.trusted("light", trusted.height, trusted.block_id)

    async def run(self, ended: Callable[[Exception], None]) -> None:
        """Follow the chain until cancelled."""
        NODE.set("light")
        try:
            await self._client.run()
        except Exception as error:  # noqa: BLE001  # judged by whom it is told to
            ended(error)
