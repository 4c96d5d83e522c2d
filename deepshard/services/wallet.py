"""The wallet: signs this node's transactions, one at a time, and waits until each is in a block."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
import trio

from deepshard.actors import Mailbox, Reply
from deepshard.errors import InvalidTransaction, LocalError, UsageError
from deepshard.identity import SecretKey
from deepshard.ledger.transactions import Action, sign_transaction, transaction_id
from deepshard.services.view import ChainAccess

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Request:
    action: Action
    reply: Reply[bytes]


class Wallet:
    """Serialises this node's transactions: the next is signed when the one before is committed.

    One key has one sequence of nonces, and several services act with it; a queue of one in flight needs no gap
    handling, and a transaction that turned out invalid never blocks those behind it.
    """

    def __init__(
        self, key: SecretKey, chain_id: str, access: ChainAccess, *, inclusion_timeout_s: float = 60.0
    ) -> None:
        self._key = key
        self._chain_id = chain_id
        self._access = access
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
        while True:
            request = await self._mailbox.get()
            try:
                request.reply.set(await self._include(request.action))
            except InvalidTransaction as error:
                request.reply.fail(UsageError(str(error)))
            except LocalError as error:
                request.reply.fail(error)

    async def _include(self, action: Action) -> bytes:
        name = type(action).__name__
        nonce = await self._access.account_nonce(self._key.address)
        data = sign_transaction(self._key, self._chain_id, nonce, action)
        await self._access.submit(data)
        with trio.move_on_after(self._timeout_s):
            while await self._access.account_nonce(self._key.address) <= nonce:
                await self._access.changed()
                if await self._access.account_nonce(self._key.address) <= nonce:
                    # Still wanted: one that was lost travels again, and one that became impossible is known now.
                    await self._access.submit(data)
            _log.debug("wallet.included", action=name, nonce=nonce)
            return transaction_id(data)
        raise LocalError(f"{name} was not included in a block within {self._timeout_s:.0f} s: is the network deciding?")
