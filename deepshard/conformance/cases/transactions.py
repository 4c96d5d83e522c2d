"""Chapter 11: transactions that the target admits and applies, and those that it doesn't pass on."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_bytes

import trio

from deepshard.conformance import expect
from deepshard.conformance.chain_view import proof_of
from deepshard.conformance.harness import Harness
from deepshard.conformance.opening import MEMBER, Self
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.registry import Lane, Needs, case
from deepshard.encoding import decode, encode
from deepshard.errors import RemoteError
from deepshard.identity import SecretKey
from deepshard.ledger.keys import account_key
from deepshard.ledger.records import Account
from deepshard.ledger.transactions import TRANSACTION_TAG, Transaction, TransactionBody, Transfer, sign_transaction
from deepshard.wire.messages import Message, Status, Transactions

RECORD_BYTES_MAX = 1 << 16
WATCHED_S = 1.0
BLOCKS_MAX = 8
ACCOUNT = (Needs.ACCOUNT,)
Make = Callable[[str, SecretKey], bytes]


def _signed(key: SecretKey, body: bytes, *, over: bytes | None = None, tag: str = TRANSACTION_TAG) -> bytes:
    return encode(Transaction(body, key.sign(tag, body if over is None else over)))


def _body(chain_id: str, key: SecretKey, amount: int = 1, nonce: int = 0) -> bytes:
    return encode(TransactionBody(chain_id, key.public, nonce, Transfer(key.address, amount)))


def _unknown_action(chain_id: str, key: SecretKey) -> bytes:
    return _signed(key, encode((chain_id, key.public, 0, ("conjure", key.address, 1))))


REFUSED: dict[str, Make] = {
    "of another chain": lambda _, key: _signed(key, _body("elsewhere", key)),
    "of an account without money": lambda chain_id, key: _signed(key, _body(chain_id, key)),
    "of nothing": lambda chain_id, key: _signed(key, _body(chain_id, key, amount=0)),
    "far ahead of its nonce": lambda chain_id, key: _signed(key, _body(chain_id, key, nonce=10**6)),
    "of an unknown action": _unknown_action,
    "with a byte after it": lambda chain_id, key: _signed(key, _body(chain_id, key)) + b"\x00",
    "with a byte after its body": lambda chain_id, key: _signed(key, _body(chain_id, key) + b"\x00"),
    "signed with another tag": lambda chain_id, key: _signed(key, _body(chain_id, key), tag="vote"),
    "signed over something else": lambda chain_id, key: _signed(key, _body(chain_id, key), over=b"x"),
    "without bytes": lambda _chain_id, _key: b"",
}


@case("6.4/6", "11.2/4", title="a transaction {} isn't passed on", lane=Lane.MESH, each=REFUSED)
async def refused_transaction(harness: Harness, make: Make) -> None:
    sender, watcher = await _member(harness), await _member(harness)
    transaction = make(harness.target.network.chain_id, SecretKey(token_bytes(32)))
    await sender.say(Transactions((transaction,)))
    with trio.move_on_after(WATCHED_S):
        while True:
            packet = await watcher.read()
            if _holds(packet.message, transaction):
                watcher.notes.extend(sender.notes)
                raise watcher.failed("the transaction not passed on", "it came")
    harness.must_still_serve = True


async def _member(harness: Harness) -> RawPeer:
    return await harness.link(Self.fresh(MEMBER))


def _holds(message: Message | None, transaction: bytes) -> bool:
    return isinstance(message, Transactions) and transaction in message.transactions


@case(
    "11.3/1",
    "11.2/4",
    title="a valid transfer is applied: the nonce grows, the fee is paid",
    lane=Lane.MESH,
    needs=ACCOUNT,
)
async def applied(harness: Harness) -> None:
    assert harness.purse is not None  # the case needs an account
    peer = await _member(harness)
    before = await _account(harness, peer)
    transaction = await harness.purse.transfer(peer)
    await peer.say(Transactions((transaction,)))
    for _ in range(BLOCKS_MAX):
        height = (await expect.message(peer, Status))[0].height
        after = await _account(harness, peer)
        if after.nonce > before.nonce:
            break
        await expect.message(peer, Status, _later(height), expected="the next block")
    else:
        raise peer.failed(f"the transfer in one of {BLOCKS_MAX} blocks", f"the nonce still {before.nonce}")
    if after.balance >= before.balance:
        raise peer.failed("a smaller balance: the fee", f"{before.balance}, then {after.balance}")


def _later(height: int) -> Callable[[Status], bool]:
    return lambda status: status.height > height


async def _account(harness: Harness, peer: RawPeer) -> Account:
    assert harness.purse is not None
    reply = await proof_of(peer, account_key(harness.purse.key.address))
    try:
        return decode(reply.value, Account, bytes_max=RECORD_BYTES_MAX) if reply.value else Account()
    except RemoteError as error:
        raise peer.failed("an Account", str(error), "11.1/1") from None


@case("11.2/4", title="a transfer that was applied isn't admitted again", lane=Lane.MESH, needs=ACCOUNT)
async def not_again(harness: Harness) -> None:
    """One with a nonce that is used up."""
    assert harness.purse is not None
    sender, watcher = await _member(harness), await _member(harness)
    used = await _account(harness, sender)
    if used.nonce == 0:
        await applied(harness)
    key = harness.purse.key
    transaction = sign_transaction(key, harness.target.network.chain_id, 0, Transfer(key.address, 7))
    await sender.say(Transactions((transaction,)))
    with trio.move_on_after(WATCHED_S):
        while True:
            if _holds((await watcher.read()).message, transaction):
                watcher.notes.extend(sender.notes)
                raise watcher.failed("a used nonce not admitted", "the transaction passed on")
