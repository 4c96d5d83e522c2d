from __future__ import annotations

import pytest
from ledger_network import BALANCE, INFORMANT, PARAMS, TOKEN, TRAINERS, VALIDATORS, Network, digest
from msgspec.structs import replace

from deepshard.ledger import explain_proposal
from deepshard.ledger.faults import (
    AlreadyDone,
    BadSegmentSize,
    CommitmentMismatch,
    DuplicateSegment,
    InsufficientBalance,
    LimitReached,
    NothingCommitted,
    NotInCommittee,
    StakeTooLow,
    UnknownProposal,
    WrongPhase,
    WrongShape,
)
from deepshard.ledger.proposals import draw_committee
from deepshard.ledger.records import ActiveSet, ActiveValidator
from deepshard.ledger.transactions import CommitVote, ProposeData, SegmentRef, vote_commitment
from deepshard.limits import SEGMENT_BYTES_MAX

STAKE = 20 * TOKEN
FEE = PARAMS.transaction_fee


def proposal_of(*names: str, size: int = 100, stake: int = STAKE) -> ProposeData:
    return ProposeData(tuple(SegmentRef(digest(name), size) for name in names), "t", "en", "CC0", stake)


@pytest.mark.clause("11.4/1", "11.4/12")
@pytest.mark.parametrize(
    ("accepts", "harmful", "status", "lost"),
    [
        ([True, True, True, True], False, "accepted", 0),
        ([True, True, True, False], False, "accepted", 0),
        ([True, True, False, False], False, "rejected", STAKE * 3 // 10),
        ([False, False, False, False], False, "rejected", STAKE * 3 // 10),
        ([False, False, False, False], True, "harmful", STAKE),
    ],
)
def test_outcomes_and_their_stakes(accepts: list[bool], harmful: bool, status: str, lost: int) -> None:  # noqa: FBT001
    network = Network()
    proposal = network.propose("a", "b")
    assert network.state.account(INFORMANT.address).locked == STAKE
    network.vote(proposal, *accepts, harmful=harmful)
    assert network.status(proposal) == status
    account = network.state.account(INFORMANT.address)
    assert (account.balance, account.locked) == (BALANCE - FEE - lost, 0)
    assert network.state.supply().treasury == FEE + lost
    (receipt,) = network.facts(f"proposal-{status}")
    assert (receipt.account, receipt.subject, receipt.amount) == (INFORMANT.address, proposal, -lost)
    assert network.state.agenda().voting == ()
    pool = set(network.state.rejected_pool())
    assert (digest("a") in pool) == (status in {"rejected", "harmful"})
    assert network.state.segment_owner(digest("a")) == (proposal if status == "accepted" else None)
    assert explain_proposal(network.state, proposal)["agrees"]


def test_unopened_votes_cost_nothing_and_leave_it_contested() -> None:
    network = Network()
    proposal = network.propose("a")
    ballots = [network.ballot(proposal, accept=False) for _ in VALIDATORS]
    network.block(
        *[
            network.sign(v, CommitVote(proposal, vote_commitment(b, v.address)))[0]
            for v, b in zip(VALIDATORS, ballots, strict=True)
        ]
    )
    network.block(*network.sign(VALIDATORS[0], ballots[0]), *network.sign(VALIDATORS[1], ballots[1]))
    network.blocks_until(lambda state: network.status(proposal) != "revealing")
    assert network.status(proposal) == "contested"
    assert network.state.account(INFORMANT.address).balance == BALANCE - FEE
    assert all(record.stake == 1000 * TOKEN for _, record in network.state.validators())
    network.propose("a")


def test_nobody_votes() -> None:
    network = Network()
    proposal = network.propose("a")
    network.blocks_until(lambda state: network.status(proposal) == "contested")
    assert network.state.chain().height == 1 + PARAMS.vote_commit_blocks + 1


def test_phases_end_early_when_all_have_acted_or_at_the_deadline() -> None:
    network = Network()
    proposal = network.propose("a")
    ballot = network.ballot(proposal, accept=True)
    network.block(
        *[network.sign(v, CommitVote(proposal, vote_commitment(ballot, v.address)))[0] for v in VALIDATORS[:3]]
    )
    assert network.status(proposal) == "committing"
    network.blocks_until(lambda state: network.status(proposal) == "revealing")
    assert network.state.chain().height == 1 + PARAMS.vote_commit_blocks
    network.block(*[network.sign(v, ballot)[0] for v in VALIDATORS[:3]])
    assert network.status(proposal) == "accepted"


@pytest.mark.clause("11.4/5")
@pytest.mark.parametrize("voters", [3, 2])
def test_an_absent_member_costs_the_grace_and_a_minority_waits_for_the_deadline(voters: int) -> None:
    network = Network(vote_commit_blocks=40, vote_reveal_blocks=40, grace_blocks=3)
    proposal = network.propose("a")
    opened = network.state.chain().height
    ballots = [(v, network.ballot(proposal, accept=True)) for v in VALIDATORS[:voters]]
    network.block(*[network.sign(v, CommitVote(proposal, vote_commitment(b, v.address)))[0] for v, b in ballots])
    network.blocks_until(lambda state: network.status(proposal) == "revealing")
    waited = network.state.chain().height - opened
    assert waited == (4 if voters == 3 else 40)
    if voters == 3:
        # Two of the three open their votes: not more than two thirds of the committee, so the deadline stands.
        network.block(*[network.sign(v, b)[0] for v, b in ballots[:2]])
        record = network.state.proposal(proposal)
        assert record is not None
        assert record.deadline == opened + waited + 40
        network.block(*[network.sign(v, b)[0] for v, b in ballots[2:]])
        assert network.status(proposal) == "accepted"


@pytest.mark.clause("11.4/3")
def test_the_committee_is_drawn_from_the_beacon_of_the_proposals_block() -> None:
    network = Network(committee_size=2)
    proposal = network.propose("a")
    record = network.state.proposal(proposal)
    assert record is not None
    seats = draw_committee(network.state.active(), network.state.chain().beacon, proposal, 2)
    assert record.committee == tuple(seat.address for seat in seats)
    assert len(seats) == 2
    committee = network.state.committee(proposal)
    assert committee is not None
    assert committee.seats == seats
    outsider = next(v for v in VALIDATORS if v.address not in record.committee)
    with pytest.raises(NotInCommittee):
        network.block(*network.sign(outsider, CommitVote(proposal, digest("c"))))


def test_committees_follow_stake() -> None:
    active = ActiveSet(tuple(ActiveValidator(bytes([i]) * 20, bytes(32), stake) for i, stake in enumerate([1, 1, 8])))
    drawn = [draw_committee(active, i.to_bytes(4, "big"), b"", 1)[0].address[0] for i in range(500)]
    assert 350 < drawn.count(2) < 450
    everyone = draw_committee(active, b"", b"", 3)
    assert [seat.stake for seat in everyone] == [1, 1, 8]


@pytest.mark.clause("11.4/1")
def test_proposals_are_checked() -> None:
    network = Network()

    def refused(error: type[Exception], *actions: ProposeData) -> None:
        root = network.state.root
        with pytest.raises(error):
            network.block(*network.sign(INFORMANT, *actions))
        assert network.state.root == root

    refused(StakeTooLow, proposal_of("a", stake=10 * TOKEN - 1))
    refused(InsufficientBalance, proposal_of("a", stake=BALANCE))
    refused(DuplicateSegment, proposal_of("a", "b", "a"))
    refused(DuplicateSegment, proposal_of("a"), proposal_of("b", "a"))
    refused(BadSegmentSize, proposal_of("a", size=0))
    refused(BadSegmentSize, proposal_of("a", size=SEGMENT_BYTES_MAX + 1))
    network.vote(network.propose("a"), *[True] * 4)
    refused(DuplicateSegment, proposal_of("a"))
    network.vote(network.propose("b"), *[False] * 4)
    network.propose("b")


def test_open_proposals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepshard.ledger.proposals.OPEN_PROPOSALS_MAX", 1)
    network = Network()
    network.propose("a")
    with pytest.raises(LimitReached):
        network.propose("b")


@pytest.mark.clause("11.4/1", "11.4/2")
def test_votes_are_checked() -> None:
    network = Network()
    proposal = network.propose("a", "b")
    first, second = VALIDATORS[:2]
    ballot = network.ballot(proposal, accept=True)
    commit = CommitVote(proposal, vote_commitment(ballot, first.address))
    with pytest.raises(UnknownProposal):
        network.block(*network.sign(first, CommitVote(bytes(32), commit.commitment)))
    with pytest.raises(NotInCommittee):
        network.block(*network.sign(TRAINERS[0], commit))
    with pytest.raises(AlreadyDone):
        network.block(*network.sign(first, commit, commit))
    with pytest.raises(WrongPhase):
        network.block(*network.sign(first, commit, ballot))
    short = replace(ballot, scores=ballot.scores[:1])
    short_commit = CommitVote(proposal, vote_commitment(short, second.address))
    network.block(*network.sign(first, commit), *network.sign(second, short_commit))
    network.blocks_until(lambda state: network.status(proposal) == "revealing")
    with pytest.raises(WrongPhase):
        network.block(*network.sign(VALIDATORS[2], commit))
    with pytest.raises(NothingCommitted):
        network.block(*network.sign(VALIDATORS[2], ballot))
    with pytest.raises(CommitmentMismatch):
        network.block(*network.sign(first, replace(ballot, accept=False)))
    with pytest.raises(WrongShape):
        network.block(*network.sign(second, short))
    with pytest.raises(AlreadyDone):
        network.block(*network.sign(first, ballot, ballot))
    network.block(*network.sign(first, ballot))
    assert network.state.vote(proposal, first.address) == ballot


def test_votes_are_free() -> None:
    network = Network()
    before = [network.state.account(v.address).balance for v in VALIDATORS]
    network.vote(network.propose("a"), *[True] * 4)
    assert [network.state.account(v.address).balance for v in VALIDATORS] == before


def test_data_that_is_accepted_without_weight_is_never_trained() -> None:
    network = Network()
    proposal = network.propose("a")
    ballot = replace(network.ballot(proposal, accept=True), scores=((9000, 9000, 9000, 0, 9000),))
    network.block(*[network.sign(v, CommitVote(proposal, vote_commitment(ballot, v.address)))[0] for v in VALIDATORS])
    network.block(*[network.sign(v, ballot)[0] for v in VALIDATORS])
    assert network.status(proposal) == "accepted"
    assert network.state.agenda().waiting == ()
