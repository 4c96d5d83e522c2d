"""An account with money: transactions that are valid now, each with the next nonce."""

from __future__ import annotations

from secrets import randbelow

import trio

from deepshard.conformance import expect
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.verdicts import CaseSkipped
from deepshard.encoding import decode
from deepshard.errors import RemoteError
from deepshard.identity import SecretKey
from deepshard.ledger.keys import account_key
from deepshard.ledger.records import Account
from deepshard.ledger.transactions import Transfer, sign_transaction
from deepshard.primitives import UNITS_PER_TOKEN
from deepshard.wire.messages import ProofReply, ProofRequest

RECORD_BYTES_MAX = 1 << 16


class Purse:
    """Hands out transfers of the account to itself; one for the whole run, since nonces follow each other."""

    def __init__(self, key: SecretKey, chain_id: str) -> None:
        self.key, self.chain_id = key, chain_id
        self._next: int | None = None
        self._asking = trio.Lock()

    async def transfer(self, peer: RawPeer) -> bytes:
        """A transfer of a little to the account itself, that nobody has seen.

        Raises:
            CaseSkipped: the account has no money.
        """
        async with self._asking:
            if self._next is None:
                self._next = await self._ask(peer)
            nonce, self._next = self._next, self._next + 1
        action = Transfer(self.key.address, 1 + randbelow(1_000_000))
        return sign_transaction(self.key, self.chain_id, nonce, action)

    async def _ask(self, peer: RawPeer) -> int:
        request = 1 + randbelow(1 << 40)
        await peer.say(ProofRequest(request, account_key(self.key.address)))
        reply, _ = await expect.message(peer, ProofReply, lambda reply: reply.request == request)
        try:
            record = decode(reply.value, Account, bytes_max=RECORD_BYTES_MAX) if reply.value else Account()
        except RemoteError as error:
            raise CaseSkipped(f"the account's record can't be read: {error}") from None
        if record.balance < UNITS_PER_TOKEN:
            raise CaseSkipped(f"the account has {record.balance} base units: it needs a balance in genesis")
        return record.nonce
