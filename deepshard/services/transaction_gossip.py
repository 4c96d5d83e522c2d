"""Transactions on their way into a block: taken from this node and from peers, checked, kept, and passed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from deepshard.errors import InvalidTransaction, RemoteError
from deepshard.net.types import NetworkPort, PeerInfo
from deepshard.services.block_sync import follows_chain
from deepshard.services.mempool import Mempool
from deepshard.wire.messages import Message, Transactions

_log = structlog.get_logger(__name__)
INTRODUCED_MAX = 64


class Gossip(Protocol):
    """Sends to every peer that follows the chain, but not back to the source."""

    def __call__(self, message: Message, *, source: bytes | None = None) -> None:
        """Send."""
        ...


class TransactionGossip:
    """The mempool and its traffic. `admit` checks a transaction against the newest state."""

    def __init__(self, network: NetworkPort, admit: Callable[[bytes], object]) -> None:
        self._network = network
        self._admit = admit
        self._mempool = Mempool()

    def __len__(self) -> int:
        return len(self._mempool)

    def pending(self) -> list[bytes]:
        """What waits for a block, oldest first."""
        return self._mempool.pending()

    def submit(self, data: bytes, gossip: Gossip) -> None:
        """Take this node's own transaction.

        Raises:
            InvalidTransaction: the ledger refuses it, or there is no room.
        """
        try:
            self._mempool.add(data, self._admit)
        except InvalidTransaction:
            raise
        except RemoteError as error:
            raise InvalidTransaction(str(error)) from error
        gossip(Transactions((data,)))

    def take(self, source: bytes, transactions: tuple[bytes, ...], gossip: Gossip) -> None:
        """Take a peer's transactions and pass on what is new.

        Raises:
            RemoteError: one can never have been valid, such as a bad signature.
        """
        fresh: list[bytes] = []
        try:
            for data in transactions:
                try:
                    if self._mempool.add(data, self._admit):
                        fresh.append(data)
                except InvalidTransaction as error:
                    # Honest peers relay what was valid a moment ago: that is nobody's fault.
                    _log.debug("transaction.refused", peer=source.hex(), error=str(error))
        finally:
            if fresh:
                gossip(Transactions(tuple(fresh)), source=source)

    async def introduce(self, peer: PeerInfo) -> None:
        """Tell a new peer what is waiting."""
        waiting = tuple(self._mempool.pending()[:INTRODUCED_MAX])
        if waiting and follows_chain(peer):
            await self._network.send(peer.public_key, Transactions(waiting))

    def settle(self, committed: tuple[bytes, ...]) -> None:
        """A block was committed: drop what it included and what its state refuses."""
        self._mempool.settle(committed, self._admit)
