"""Convictions: what evidence does to a validator, once, whoever reports it when; and the way out of jail."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_evidence import A, B, amnesia, two_proposals, two_votes, vote
from ledger_network import CHAIN_ID, INFORMANT, ONIONS, TOKEN, TRAINERS, VALIDATORS, Network

from deepshard.ballots import Vote, VoteKind
from deepshard.errors import BadSignature, InvalidTransaction, RemoteError
from deepshard.evidence import Amnesia, Evidence, InvalidEvidence, duplicate_vote
from deepshard.identity import SecretKey
from deepshard.ledger.accountability import evidence_id, evidence_window
from deepshard.ledger.execution import check_transaction
from deepshard.ledger.explain import explain_conviction
from deepshard.ledger.faults import (
    AlreadyConvicted,
    EvidenceOutOfTime,
    NotAValidator,
    NotJailed,
    StillJailed,
)
from deepshard.ledger.transactions import Action, Bond, CommitVote, ReportEvidence, Unbond, Unjail, vote_commitment

FIRST, SECOND, THIRD, FOURTH = VALIDATORS
STAKE = 1000 * TOKEN
KINDS = {"duplicate-vote": two_votes, "duplicate-proposal": two_proposals, "amnesia": amnesia}


def report(network: Network, evidence: Evidence, reporter: SecretKey = FIRST) -> None:
    network.block(*network.sign(reporter, ReportEvidence(evidence)))


def until(network: Network, height: int) -> None:
    network.blocks_until(lambda state: state.chain().height == height)


def active(network: Network) -> set[bytes]:
    return {address for address, _, _ in network.state.active_validators()}


def stake_of(network: Network, key: SecretKey) -> int:
    """Bonded and on its way out."""
    bond = network.state.validator(key.address)
    return (bond.stake if bond else 0) + sum(one.amount for one in network.state.account(key.address).unbonding)


@pytest.mark.clause("9.5/7", "11.11/1")
@pytest.mark.parametrize("kind", KINDS)
def test_a_conviction_costs_a_share_of_what_is_bonded_and_what_is_withdrawn(kind: str) -> None:
    network = Network(equivocation_slash_bp=1234)
    network.block(*network.sign(THIRD, Unbond(100 * TOKEN + 1), Unbond(7)))
    balances = {key.address: network.state.account(key.address).balance for key in VALIDATORS}
    treasury = network.state.supply().treasury
    evidence = KINDS[kind](THIRD, 1)
    report(network, evidence)
    bonded = (STAKE - 100 * TOKEN - 8) * 1234 // 10_000
    withdrawn = (100 * TOKEN + 1) * 1234 // 10_000 + 7 * 1234 // 10_000
    assert stake_of(network, THIRD) == STAKE - bonded - withdrawn
    assert network.state.supply().treasury == treasury + bonded + withdrawn
    assert {key.address: network.state.account(key.address).balance for key in VALIDATORS} == balances
    conviction = network.state.conviction(THIRD.address)
    assert conviction is not None
    assert (conviction.kind, conviction.evidence, conviction.offence_height) == (kind, evidence_id(evidence), 1)
    assert (conviction.height, conviction.covered_height, conviction.jailed_until) == (2, 4, 2 + 8)
    assert (conviction.slashed, conviction.count) == (bonded + withdrawn, 1)
    (receipt,) = network.facts("evidence-slash")
    assert (receipt.account, receipt.subject, receipt.reason) == (THIRD.address, evidence_id(evidence), kind)
    assert receipt.amount == -bonded - withdrawn


@pytest.mark.clause("11.11/1")
@pytest.mark.parametrize("together", [True, False])
def test_reports_of_one_crime_cost_the_same_in_any_order(together: bool) -> None:  # noqa: FBT001  # a parameter
    pieces = [two_votes(THIRD, 1), two_votes(THIRD, 1, 1), amnesia(THIRD, 2), two_proposals(THIRD, 2)]
    outcomes = set()
    for order in permutations(pieces):
        network = Network()
        network.block()
        for number, evidence in enumerate(order):
            reporter = VALIDATORS[number % 2]
            sent = network.sign(reporter, ReportEvidence(evidence))
            if number == 0:
                network.block(*sent)
                continue
            with pytest.raises(AlreadyConvicted):
                network.block(*sent)
            if not together:
                network.block()
        conviction = network.state.conviction(THIRD.address)
        assert conviction is not None
        outcomes.add((stake_of(network, THIRD), conviction.count, conviction.covered_height))
    assert outcomes == {(STAKE - STAKE // 20, 1, 4)}


@pytest.mark.clause("11.11/1")
def test_evidence_has_to_be_good_and_its_reporter_bonded() -> None:
    network = Network()
    good = two_votes(THIRD, 1)
    wrong: list[tuple[Evidence, SecretKey, type[RemoteError]]] = [
        (good, INFORMANT, NotAValidator),
        (two_votes(INFORMANT, 1), FIRST, NotAValidator),
        (two_votes(THIRD, 2), FIRST, EvidenceOutOfTime),
        (two_votes(THIRD, 0), FIRST, EvidenceOutOfTime),
        (Amnesia(THIRD.public, *reversed((vote(THIRD, VoteKind.PRECOMMIT, 1, 1, A),) * 2)), FIRST, InvalidEvidence),
        (duplicate_vote(THIRD.public, vote(THIRD, VoteKind.PREVOTE, 1, 0, A), forged()), FIRST, BadSignature),
    ]
    for evidence, reporter, error in wrong:
        with pytest.raises(error):
            report(network, evidence, reporter)
    assert network.state.convictions() == []
    report(network, good, THIRD)  # of oneself: it gains nothing by it
    assert stake_of(network, THIRD) == STAKE - STAKE // 20


def forged() -> Vote:
    true = vote(FOURTH, VoteKind.PREVOTE, 1, 0, B)
    return Vote(true.kind, 1, 0, -1, B, THIRD.address, true.signature)


@pytest.mark.clause("11.11/2", "11.3/3")
def test_the_jailed_leave_at_the_end_of_the_epoch_and_come_back_when_they_ask() -> None:
    network = Network()
    report(network, two_votes(THIRD, 1))
    until(network, 3)
    assert THIRD.address in active(network)
    network.block()
    assert active(network) == {key.address for key in (FIRST, SECOND, FOURTH)}
    with pytest.raises(NotJailed):
        network.block(*network.sign(FIRST, Unjail()))
    with pytest.raises(StillJailed):
        network.block(*network.sign(THIRD, Unjail()))
    until(network, 8)  # jailed until height 9: the last block of an epoch
    before = network.state.account(THIRD.address).balance
    network.block(*network.sign(THIRD, Unjail()))
    assert network.state.account(THIRD.address).balance == before - network.params.transaction_fee
    assert (THIRD.address, THIRD.public, STAKE - STAKE // 20) in network.state.active_validators()
    with pytest.raises(NotJailed):
        network.block(*network.sign(THIRD, Unjail()))
    until(network, 10)
    report(network, two_votes(THIRD, 10))  # another crime
    conviction = network.state.conviction(THIRD.address)
    assert conviction is not None
    assert (conviction.count, conviction.slashed, conviction.covered_height) == (2, 97_500_000_000, 14)


@pytest.mark.clause("11.11/2")
def test_the_set_is_never_left_empty() -> None:
    network = Network()
    network.block(*network.sign(FIRST, *(ReportEvidence(two_votes(key, 1)) for key in VALIDATORS)))
    until(network, 12)
    assert active(network) == {key.address for key in VALIDATORS}
    report(network, two_votes(THIRD, 12))  # they are still in the set, so this is another crime
    conviction = network.state.conviction(THIRD.address)
    assert conviction is not None
    assert conviction.count == 2
    network.block(*network.sign(FOURTH, Unjail()))
    until(network, 14)
    assert active(network) == {FOURTH.address}


@pytest.mark.clause("11.11/2", "11.11/3")
def test_who_is_convicted_keeps_its_seats_and_its_locked_stake() -> None:
    network = Network()
    proposal = network.propose("text", sender=THIRD)
    locked = network.state.account(THIRD.address).locked
    report(network, two_votes(FOURTH, 1), FIRST)
    report(network, two_votes(THIRD, 1), FIRST)
    assert network.state.account(THIRD.address).locked == locked == 20 * TOKEN
    until(network, 5)
    assert THIRD.address not in active(network)
    ballot = network.ballot(proposal, accept=True)
    network.block(*network.sign(THIRD, CommitVote(proposal, vote_commitment(ballot, THIRD.address))))
    record, committee = network.state.proposal(proposal), network.state.committee(proposal)
    assert record is not None
    assert committee is not None
    assert [voter for voter, _ in record.commitments] == [THIRD.address]
    assert {seat.stake for seat in committee.seats} == {STAKE}


@pytest.mark.clause("11.11/1", "11.11/4")
@pytest.mark.parametrize("withdrawn_at", range(1, 11))
def test_stake_is_within_reach_for_as_long_as_evidence_of_its_votes_is_taken(withdrawn_at: int) -> None:
    network = Network()
    until(network, withdrawn_at - 1)
    network.block(*network.sign(THIRD, Unbond(STAKE)))
    network.blocks_until(lambda _: THIRD.address not in active(network))
    last_vote = network.state.chain().height
    until(network, last_vote + evidence_window(network.params) - 1)
    report(network, two_votes(THIRD, last_vote))
    assert network.state.account(THIRD.address).unbonding[0].amount == STAKE - STAKE // 20
    with pytest.raises((NotAValidator, EvidenceOutOfTime)):
        report(network, two_votes(THIRD, last_vote + 1))


@pytest.mark.clause("11.11/1", "11.11/4")
def test_evidence_becomes_too_old_and_its_epoch_is_forgotten() -> None:
    network = Network()
    window = evidence_window(network.params)
    assert window == 7
    for height in range(1, 40):
        for offence in range(1, height + 1):
            sent = network.sign(FIRST, ReportEvidence(two_votes(THIRD, offence)))[0]
            if offence < height - window:
                with pytest.raises(EvidenceOutOfTime):
                    check_transaction(network.state, CHAIN_ID, sent)
            else:
                check_transaction(network.state, CHAIN_ID, sent)
        network.block()
        kept = [epoch for epoch in range(20) if network.state.validators_of_epoch(epoch) is not None]
        first = max(1, height + 1 - window)  # the oldest offence that the next block takes
        newest = (height + 1) // 5
        assert kept[0] <= first // 5 <= newest == kept[-1]
        assert len(kept) <= 4


def test_a_conviction_is_explained() -> None:
    network = Network()
    assert explain_conviction(network.state, THIRD.address) is None
    report(network, amnesia(THIRD, 1))
    explained = explain_conviction(network.state, THIRD.address)
    assert explained is not None
    assert (explained["kind"], explained["slashed"], explained["jailed_until"]) == ("amnesia", 50 * TOKEN, 9)
    assert explained["text"] == (
        "It voted against a block that it was locked on, without a proof-of-lock at height 1; the block of height 1 "
        "has the two signatures. That cost 500 basis points of its bond and of what it was withdrawing, and settles "
        "all that it did up to height 4. It is jailed; from height 9 on it may ask to be let back (Unjail)."
    )
    until(network, 8)
    network.block(*network.sign(THIRD, Unjail()))
    explained = explain_conviction(network.state, THIRD.address)
    assert explained is not None
    assert explained["jailed_until"] is None
    assert "It is jailed" not in explained["text"]


STEPS = st.one_of(
    st.tuples(st.just("report"), st.sampled_from(VALIDATORS), st.integers(0, 9), st.sampled_from(VALIDATORS)),
    st.tuples(st.just("bond"), st.sampled_from([*VALIDATORS, TRAINERS[0]]), st.integers(1, 700), st.none()),
    st.tuples(st.just("unbond"), st.sampled_from(VALIDATORS), st.integers(1, 1000), st.none()),
    st.tuples(st.just("unjail"), st.sampled_from(VALIDATORS), st.just(0), st.none()),
    st.tuples(st.just("wait"), st.none(), st.integers(1, 6), st.none()),
)


@pytest.mark.clause("11.1/2", "11.11/1", "11.11/2")
@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25), st.sampled_from([0, 500, 10_000]))
def test_whatever_happens_no_crime_costs_twice_and_no_money_is_lost(
    steps: list[tuple[str, SecretKey | None, int, SecretKey | None]],
    slash_bp: int,
) -> None:
    network = Network(equivocation_slash_bp=slash_bp)
    sets = {1: active(network)}
    convicted: dict[bytes, list[tuple[int, int]]] = {}
    for what, key, number, reporter in steps:
        height = network.state.chain().height + 1
        if what == "wait":
            for _ in range(number):
                network.block()
                sets[network.state.chain().height + 1] = active(network)
            continue
        assert key is not None
        before = stake_of(network, key)
        if what == "report":
            assert reporter is not None
            offence = height - number
            sent = network.sign(reporter, ReportEvidence(two_votes(key, max(0, offence))))
            bond = network.state.validator(reporter.address)
            punished = convicted.setdefault(key.address, [])
            expected = (
                bond is not None
                and bond.stake > 0
                and max(1, height - 7) <= offence
                and key.address in sets[max(1, offence)]
                and all(offence > (at // 5 + 1) * 5 - 1 for at, _ in punished)
            )
        else:
            record = network.state.validator(key.address)
            tip = record.onion_tip if record else ONIONS[key.address].tip
            actions: dict[str, Action] = {
                "bond": Bond(number * TOKEN, tip),
                "unbond": Unbond(number * TOKEN),
                "unjail": Unjail(),
            }
            sent, expected = network.sign(key, actions[what]), None
        try:
            network.block(*sent)  # counts all money
        except InvalidTransaction:
            assert expected is not True
            network.block()
        else:
            assert expected is not False
            if what == "report":
                lost = before - stake_of(network, key) - released(network, key)
                punished.append((height, lost))
                assert 0 <= before * slash_bp // 10_000 - lost <= 17  # rounded down, for each withdrawal
        sets[network.state.chain().height + 1] = active(network)
        assert active(network)
    for address, times in convicted.items():
        conviction = network.state.conviction(address)
        assert (conviction.count if conviction else 0) == len(times)
        assert (conviction.slashed if conviction else 0) == sum(lost for _, lost in times)
        assert len({at // 5 for at, _ in times}) == len(times)
    for height, members in sets.items():
        jailed = {
            receipt.account
            for receipt in network.facts("evidence-slash")
            if receipt.height // 5 < height // 5
            and freed_at(network, receipt.account, receipt.height) >= height // 5 * 5
        }
        assert not members & jailed or members <= jailed


def released(network: Network, key: SecretKey) -> int:
    """What the newest block has paid out to `key`."""
    height = network.state.chain().height
    return sum(
        dict(receipt.facts)["released"]  # type: ignore[misc]  # an int
        for receipt in network.facts("unbonded")
        if (receipt.height, receipt.account) == (height, key.address)
    )


def freed_at(network: Network, address: bytes, after: int) -> int:
    """Height of the block that let `address` out of jail after `after`, or beyond all."""
    heights = [r.height for r in network.facts("unjail") if r.account == address and r.height > after]
    return min(heights, default=1 << 62)
