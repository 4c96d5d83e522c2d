"""The mempool and the relay of votes."""

import pytest

from deepshard.consensus.types import Vote, VoteKind
from deepshard.errors import InvalidTransaction
from deepshard.identity import SecretKey
from deepshard.ledger.transactions import Transfer, sign_transaction, transaction_id
from deepshard.limits import MEMPOOL_PER_SENDER_MAX
from deepshard.services.mempool import Mempool, MempoolFull
from deepshard.services.rebroadcast import VoteRelay

KEY = SecretKey(bytes(32))


def transfer(nonce: int) -> bytes:
    return sign_transaction(KEY, "test", nonce, Transfer(bytes(20), 1))


def accept(_: bytes) -> None:
    return None


def test_mempool_keeps_order_and_each_once() -> None:
    mempool = Mempool()
    assert [mempool.add(transfer(n), accept) for n in (1, 0, 1)] == [True, True, False]
    assert mempool.pending() == [transfer(1), transfer(0)]
    assert transaction_id(transfer(0)) in mempool


def test_mempool_bounds_one_sender_and_frees_on_settling() -> None:
    mempool = Mempool()
    for nonce in range(MEMPOOL_PER_SENDER_MAX):
        mempool.add(transfer(nonce), accept)
    with pytest.raises(MempoolFull):
        mempool.add(transfer(99), accept)
    mempool.settle((transfer(0),), accept)
    assert mempool.add(transfer(99), accept)
    assert len(mempool) == MEMPOOL_PER_SENDER_MAX


def test_mempool_drops_what_the_new_state_refuses() -> None:
    def refuse_even(data: bytes) -> None:
        if data in {transfer(0), transfer(2)}:
            raise InvalidTransaction("stale")

    mempool = Mempool()
    for nonce in range(4):
        mempool.add(transfer(nonce), accept)
    mempool.settle((), refuse_even)
    assert mempool.pending() == [transfer(1), transfer(3)]


def test_mempool_does_not_keep_what_the_check_refuses() -> None:
    def refuse(_: bytes) -> None:
        raise InvalidTransaction("no")

    mempool = Mempool()
    with pytest.raises(InvalidTransaction):
        mempool.add(transfer(0), refuse)
    assert not len(mempool)


def test_relay_skips_who_has_the_vote() -> None:
    relay = VoteRelay()
    relay.note(b"v1", holder=b"sender", author=b"author")
    relay.note(b"v2", holder=b"sender", author=None)
    assert relay.flush([b"sender", b"author", b"other"]) == {b"author": (b"v2",), b"other": (b"v1", b"v2")}
    assert not relay.pending
    relay.note(b"v1", holder=b"late", author=None)
    assert relay.flush([b"sender", b"author", b"other", b"late"]) == {}


def test_one_validator_gets_a_few_votes_a_step_and_no_more() -> None:
    relay = VoteRelay()
    votes = [Vote(VoteKind.PREVOTE, 5, 0, bytes([n]) * 32, bytes(20), bytes(64)) for n in range(5)]
    taken = []
    for vote in votes:
        if relay.admits(vote):
            relay.count(vote)
            taken.append(vote)
    assert taken == votes[:3]
    assert relay.admits(Vote(VoteKind.PRECOMMIT, 5, 0, bytes(32), bytes(20), bytes(64)))
    assert relay.admits(Vote(VoteKind.PREVOTE, 5, 1, bytes(32), bytes(20), bytes(64)))
    relay.clear()
    assert relay.admits(votes[4])


def test_own_votes_go_to_everyone_and_clear_forgets() -> None:
    relay = VoteRelay()
    relay.note(b"mine", holder=None, author=None)
    assert relay.flush([b"a", b"b"]) == {b"a": (b"mine",), b"b": (b"mine",)}
    assert relay.all_votes() == (b"mine",)
    relay.clear()
    assert not relay.is_known(b"mine")
