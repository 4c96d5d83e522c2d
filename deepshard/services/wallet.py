"""The wallet: signs this node's transactions, one at a time, and waits until each is in a block."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
import trio

from deepshard.actors import Mailbox, Reply
from deepshard.disk.journal import Journal
from deepshard.errors import InvalidTransaction, LocalError, UsageError
from deepshard.identity import SecretKey
from deepshard.ledger.transactions import Action, decode_transaction, sign_transaction, transaction_id
from deepshard.services.view import ChainAccess

_log = structlog.get_logger(__name__)
IN_FLIGHT = "wallet/in-flight"


@dataclass(frozen=True, slots=True)
class _Request:
    action: Action
    reply: Reply[bytes]


class Wallet:
    """Serialises this node's transactions: the next is signed when the one before is committed.

    One key has one sequence of nonces, and several services act with it; a queue of one in flight needs no gap
    handling, and a transaction that turned out invalid never blocks those behind it. The one in flight is in the
    journal: after a restart it is settled before another is signed, since two transactions with one nonce would leave
    it open which of them was included.
    """

    def __init__(
        self,
        key: SecretKey,
        chain_id: str,
        access: ChainAccess,
        *,
        journal: Journal | None = None,
        inclusion_timeout_s: float = 60.0,
    ) -> None:
        self._key = key
        self._chain_id = chain_id
        self._access = access
        self._journal = journal
        self._timeout_s = inclusion_timeout_s
        self._mailbox: Mailbox[_Request] = Mailbox(256)

    @property
    def address(self) -> bytes:
        """Address this wallet signs for."""
        return self._key.address

    async def send(self, action: Action) -> bytes:
        """Send an action and wait until it is in a block; its transaction id.

        Raises:
            UsageError: the ledger refuses it in the current state.
            LocalError: it was not included in time.
        """
        reply: Reply[bytes] = Reply()
        await self._mailbox.put(_Request(action, reply))
        return await reply.get()

    async def run(self) -> None:
        """Serve requests in order."""
        await self._settle_last()
        while True:
            request = await self._mailbox.get()
            try:
                request.reply.set(await self._include(request.action))
            except InvalidTransaction as error:
                request.reply.fail(UsageError(str(error)))
            except LocalError as error:
                request.reply.fail(error)

    async def _settle_last(self) -> None:
        """Send what was in flight before a restart again, until it is included or can't be any more."""
        data = None if self._journal is None else self._journal.get(IN_FLIGHT)
        if not data:
            return
        _, body = decode_transaction(data)
        if body.chain_id == self._chain_id and body.sender == self._key.public:
            try:
                await self._wait(data, body.nonce, type(body.action).__name__)
            except (InvalidTransaction, LocalError) as error:
                _log.info("wallet.given_up", nonce=body.nonce, error=str(error))
        self._remember(b"")

    def _remember(self, data: bytes) -> None:
        if self._journal is not None:
            self._journal.put(IN_FLIGHT, data)

    async def _include(self, action: Action) -> bytes:
        nonce = await self._access.account_nonce(self._key.address)
        data = sign_transaction(self._key, self._chain_id, nonce, action)
        self._remember(data)
        await self._wait(data, nonce, type(action).__name__)
        self._remember(b"")
        return transaction_id(data)

    async def _wait(self, data: bytes, nonce: int, name: str) -> None:
        with trio.move_on_after(self._timeout_s):
            while await self._access.account_nonce(self._key.address) <= nonce:
                # Still wanted: one that was lost travels again, and one that became impossible is known now.
                await self._access.submit(data)
                await self._access.changed()
            _log.debug("wallet.included", action=name, nonce=nonce)
            return
        raise LocalError(f"{name} was not included in a block within {self._timeout_s:.0f} s: is the network deciding?")
