"""Transactions waiting for a block: bounded in all and by sender, ordered by arrival, re-checked after each block.

A check costs 20 us, a full mempool a fifth of a second: after each block the `SETTLE_CHECKS_MAX` that were checked
longest ago are. What stays for some blocks though no state will admit it isn't chosen for a block either.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from deepshard.errors import InvalidTransaction, RemoteError
from deepshard.ledger.transactions import decode_transaction, transaction_id
from deepshard.limits import MEMPOOL_PER_SENDER_MAX, MEMPOOL_TRANSACTIONS_MAX

SETTLE_CHECKS_MAX: Final = 1000


class MempoolFull(InvalidTransaction):
    """No room for another transaction, in all or from this sender."""

    penalty = 0


class Mempool:
    """Insertion-ordered transactions by id. Holds only what passed the ledger's check when it came."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, bytes] = {}
        self._senders: dict[bytes, bytes] = {}
        self._per_sender: Counter[bytes] = Counter()
        self._checked: deque[bytes] = deque()
        """Ids by their last check, the longest ago first; some may be gone meanwhile."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, identifier: bytes) -> bool:
        return identifier in self._by_id

    def add(self, data: bytes, check: Callable[[bytes], object]) -> bool:
        """Check and keep a transaction; False if it is already here.

        Raises:
            RemoteError: malformed, invalid, or no room.
        """
        identifier = transaction_id(data)
        if identifier in self._by_id:
            return False
        _, body = decode_transaction(data)
        if len(self._by_id) >= MEMPOOL_TRANSACTIONS_MAX or self._per_sender[body.sender] >= MEMPOOL_PER_SENDER_MAX:
            raise MempoolFull(f"mempool holds {len(self._by_id)}, of this sender {self._per_sender[body.sender]}")
        check(data)
        self._by_id[identifier] = data
        self._checked.append(identifier)
        self._senders[identifier] = body.sender
        self._per_sender[body.sender] += 1
        return True

    def pending(self) -> list[bytes]:
        """All transactions, oldest first."""
        return list(self._by_id.values())

    def settle(self, committed: tuple[bytes, ...], check: Callable[[bytes], object]) -> None:
        """Drop what a block included and what its new state refuses, of those that were checked longest ago."""
        for data in committed:
            self._drop(transaction_id(data))
        if len(self._checked) > 2 * MEMPOOL_TRANSACTIONS_MAX:
            self._checked = deque(dict.fromkeys(each for each in self._checked if each in self._by_id))
        passed: list[bytes] = []
        checks = 0
        while self._checked and checks < SETTLE_CHECKS_MAX:
            identifier = self._checked.popleft()
            known = self._by_id.get(identifier)
            if known is None:
                continue
            checks += 1
            try:
                check(known)
            except RemoteError:
                self._drop(identifier)
            else:
                passed.append(identifier)
        self._checked.extend(passed)

    def _drop(self, identifier: bytes) -> None:
        if self._by_id.pop(identifier, None) is None:
            return
        sender = self._senders.pop(identifier)
        self._per_sender[sender] -= 1
        if not self._per_sender[sender]:
            del self._per_sender[sender]
