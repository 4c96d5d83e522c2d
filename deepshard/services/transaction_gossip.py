"""Transactions on their way into a block: taken from this node and from peers, checked, and kept in the mempool."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from deepshard.errors import InvalidTransaction, RemoteError
from deepshard.gossip import Verdict
from deepshard.net.types import NetworkPort, PeerInfo
from deepshard.services.block_sync import follows_chain
from deepshard.services.mempool import Mempool
from deepshard.wire.messages import Transactions

_log = structlog.get_logger(__name__)
INTRODUCED_MAX = 64


class TransactionGossip:
    """The mempool and what goes into it. `admit` checks a transaction against the newest state."""

    def __init__(self, network: NetworkPort, admit: Callable[[bytes], object]) -> None:
        self._network = network
        self._admit = admit
        self._mempool = Mempool()

    def __len__(self) -> int:
        return len(self._mempool)

    def pending(self) -> list[bytes]:
        """What waits for a block, oldest first."""
        return self._mempool.pending()

    def submit(self, data: bytes) -> Transactions:
        """Take this node's own transaction; the message that tells others.

        Raises:
            InvalidTransaction: the ledger refuses it, or there is no room.
        """
        try:
            self._mempool.add(data, self._admit)
        except InvalidTransaction:
            raise
        except RemoteError as error:
            raise InvalidTransaction(str(error)) from error
        return Transactions((data,))

    def take(self, data: bytes) -> Verdict:
        """Judge a peer's transaction, and keep it if it is valid.

        Raises:
            RemoteError: it can never have been valid, such as with a bad signature.
        """
        try:
            return Verdict.VALID if self._mempool.add(data, self._admit) else Verdict.IGNORE
        except InvalidTransaction as error:
            # Honest peers relay what was valid a moment ago: that is nobody's fault, and it may be valid again.
            _log.debug("transaction.refused", error=str(error))
            return Verdict.LATER

    async def introduce(self, peer: PeerInfo) -> None:
        """Tell a new peer what is waiting."""
        waiting = tuple(self._mempool.pending()[:INTRODUCED_MAX])
        if waiting and follows_chain(peer):
            await self._network.send(peer.public_key, Transactions(waiting))

    def settle(self, committed: tuple[bytes, ...]) -> None:
        """A block was committed: drop what it included and what its state refuses."""
        self._mempool.settle(committed, self._admit)
