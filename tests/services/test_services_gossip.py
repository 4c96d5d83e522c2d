"""The mempool, the votes of a height, and units to messages and back."""

from collections import Counter

import pytest
from blake3 import blake3

from deepshard.ballots import Proposal, Vote, VoteKind
from deepshard.encoding import decode, encode
from deepshard.errors import InvalidTransaction
from deepshard.identity import SecretKey
from deepshard.ledger.transactions import Transfer, sign_transaction, transaction_id
from deepshard.limits import (
    FAR_VOTES_MAX,
    FUTURE_ROUNDS_MAX,
    MEMPOOL_PER_SENDER_MAX,
    PROPOSALS_PER_HEIGHT_MAX,
    VOTES_PER_STEP_MAX,
)
from deepshard.services.mempool import SETTLE_CHECKS_MAX, Mempool, MempoolFull
from deepshard.services.mesh_host import messages_of, units_of
from deepshard.services.rebroadcast import VOTES_KEPT_MAX, HeightProposals, HeightVotes
from deepshard.wire.messages import BlockProposal, Transactions, Votes

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


def test_mempool_checks_a_bounded_number_after_a_block_and_everything_in_turn() -> None:
    def transfer_of(sender: int) -> bytes:
        return sign_transaction(SecretKey(sender.to_bytes(32, "big")), "test", 0, Transfer(bytes(20), 1))

    checked: list[bytes] = []

    def note(data: bytes) -> None:
        checked.append(data)
        if data == stale:
            raise InvalidTransaction("stale")

    waiting = [transfer_of(number) for number in range(SETTLE_CHECKS_MAX + 20)]
    stale = waiting[-1]
    mempool = Mempool()
    for data in waiting:
        mempool.add(data, accept)
    mempool.settle((waiting[0],), note)
    assert checked == waiting[1 : SETTLE_CHECKS_MAX + 1]
    checked.clear()
    mempool.settle((), note)
    assert checked[:20] == [*waiting[SETTLE_CHECKS_MAX + 1 :], waiting[1]]
    assert stale not in mempool.pending()
    assert mempool.pending() == waiting[1:-1]


def test_mempool_does_not_keep_what_the_check_refuses() -> None:
    def refuse(_: bytes) -> None:
        raise InvalidTransaction("no")

    mempool = Mempool()
    with pytest.raises(InvalidTransaction):
        mempool.add(transfer(0), refuse)
    assert not len(mempool)


def cast(number: int, *, kind: VoteKind = VoteKind.PREVOTE, round_: int = 0, validator: int = 0) -> Vote:
    return Vote(kind, 5, round_, -1, bytes([number]) * 32, bytes([validator]) * 20, bytes(64))


def taken(votes: HeightVotes, vote: Vote, current_round: int = 0) -> bool:
    if not votes.admits(vote, current_round):
        return False
    votes.add(vote, encode(vote), current_round)
    return True


def test_one_validator_gets_a_few_votes_a_step_and_no_more() -> None:
    kept = HeightVotes()
    assert [taken(kept, cast(n)) for n in range(5)] == [True] * VOTES_PER_STEP_MAX + [False] * 2
    assert taken(kept, cast(0, kind=VoteKind.PRECOMMIT))
    assert taken(kept, cast(0, round_=1))
    assert taken(kept, cast(0, validator=1))
    kept.clear()
    assert taken(kept, cast(4))


def test_a_validator_that_votes_in_every_round_there_is_takes_no_room_from_the_others() -> None:
    kept = HeightVotes()
    far = [cast(1, round_=round_) for round_ in range(FUTURE_ROUNDS_MAX + 1, 5000)]
    assert sum(taken(kept, vote) for vote in far) == FAR_VOTES_MAX
    for round_ in range(2000):
        taken(kept, cast(1, round_=round_), current_round=round_)
    assert len(kept.all()) == VOTES_KEPT_MAX
    honest = cast(2, validator=9)
    assert taken(kept, honest)
    assert kept.has(honest, encode(honest))
    assert encode(honest) in kept.all()


def test_a_proposer_that_equivocates_or_proposes_ahead_takes_no_room_from_other_rounds() -> None:
    kept = HeightProposals()
    for round_ in range(FUTURE_ROUNDS_MAX + 1):
        for number in range(100):
            offer = Proposal(5, round_, -1, bytes([number]) * 32, bytes(20), bytes(64))
            if kept.admits(offer):
                kept.add(offer, encode(offer), b"block")
    held = kept.newest(1000, FUTURE_ROUNDS_MAX)
    assert len(held) == PROPOSALS_PER_HEIGHT_MAX
    rounds = Counter(decode(encoded, Proposal, bytes_max=512).round for encoded, _ in held)
    assert min(rounds[round_] for round_ in range(FUTURE_ROUNDS_MAX + 1)) >= 3
    assert [decode(encoded, Proposal, bytes_max=512).round for encoded, _ in kept.newest(2, 4)] == [4, 4]


def test_units_fill_few_messages_and_come_back_the_same() -> None:
    votes = Votes(tuple(bytes([number]) * 40 for number in range(200)) + tuple(b"x" * n for n in range(1, 200)))
    proposal = BlockProposal(b"proposal", b"block" * 1000)
    transactions = Transactions(tuple(bytes([number]) * 100_000 for number in range(4)))
    units = [unit for message in (votes, proposal, transactions) for unit in units_of(message)]
    messages = list(messages_of(units))
    assert [type(message) for message in messages] == [BlockProposal, Votes, Votes, Transactions, Transactions]
    assert sum(len(message.votes) for message in messages if isinstance(message, Votes)) == 399
    back = [unit.id for message in messages for unit in units_of(message)]
    assert sorted(back) == sorted(unit.id for unit in units)


@pytest.mark.clause("7.1/1", "7.1/2")
def test_the_id_of_a_unit_is_that_of_a_message_which_holds_it_alone() -> None:
    body = b"\x91\x92\xc4\x02v1\xc4\x02v2"
    assert encode(Votes((b"v1", b"v2"))) == body
    alone = b"\x91\x91\xc4\x02v1"
    expected = blake3(
        (2).to_bytes(8, "little") + b"\x12\x00" + len(alone).to_bytes(8, "little") + alone,
        derive_key_context="deepshard 2026-11 v1 gossip id",
    ).digest()[:16]
    assert next(units_of(Votes((b"v1", b"v2")))).id == expected
    assert next(units_of(Votes((b"v1",)))).id == expected
    assert next(units_of(Transactions((b"v1",)))).id != expected
