"""Data proposals: from stake and segments, through a committee's committed votes, to acceptance or loss.

The committee is drawn at the end of the block that holds the proposal, with that block's beacon: an informant who
could compute the draw beforehand would reword its proposal until it liked the committee.

A member who doesn't vote, or commits and doesn't open, loses nothing: an unopened vote has less effect than a vote,
so withholding gains nothing, and slashing it would mostly punish machines that stopped between two phases. A proposal
that too few votes are opened for is contested, and its stake goes back.
"""

from __future__ import annotations

from msgspec.structs import replace

from deepshard.ledger import funds, keys
from deepshard.ledger.call import Call
from deepshard.ledger.faults import (
    AlreadyDone,
    BadSegmentSize,
    CommitmentMismatch,
    DuplicateSegment,
    LimitReached,
    NothingCommitted,
    NotInCommittee,
    StakeTooLow,
    UnknownProposal,
    WrongPhase,
    WrongShape,
)
from deepshard.ledger.receipts import Receipts
from deepshard.ledger.records import ActiveSet, Agenda, Committee, DataProposal, Seat, SegmentRecord, WaitingProposal
from deepshard.ledger.sampling import Draws
from deepshard.ledger.state import Draft, View
from deepshard.ledger.tally import Ballot, ProposalOutcome, tally
from deepshard.ledger.transactions import CommitVote, ProposeData, RevealVote, vote_commitment
from deepshard.limits import OPEN_PROPOSALS_MAX, SEGMENT_BYTES_MAX
from deepshard.primitives import tagged_hash


def apply_propose_data(call: Call, action: ProposeData) -> None:
    """Open a proposal; its id is the transaction's id."""
    # CHECK
    if action.stake < call.params.proposal_stake_min:
        raise StakeTooLow("proposal stake", action.stake, call.params.proposal_stake_min)
    _check_segments(call, action)
    agenda = call.draft.agenda()
    if len(agenda.voting) >= OPEN_PROPOSALS_MAX:
        raise LimitReached("proposals being voted on at a time", OPEN_PROPOSALS_MAX)
    call.require(action.stake)
    # CHARGE
    call.charge_fee()
    # APPLY
    funds.lock(call.draft, call.sender, action.stake)
    proposal = DataProposal(
        id=call.id,
        proposer=call.sender,
        segments=action.segments,
        title=action.title,
        language=action.language,
        licence=action.licence,
        stake=action.stake,
        opened_height=call.height,
        status="committing",
        deadline=call.height + call.params.vote_commit_blocks,
        committee=(),
        commitments=(),
        revealed=(),
        tally=None,
        decided_height=0,
    )
    call.draft.put_proposal(proposal)
    call.draft.put_agenda(replace(agenda, voting=(*agenda.voting, call.id)))
    for segment in action.segments:
        call.draft.write(keys.segment_key(segment.digest), SegmentRecord(call.id, "voting"))
    # RECEIPT
    size = sum(segment.size for segment in action.segments)
    facts = {"segments": len(action.segments), "bytes": size, "stake": action.stake}
    call.receipts.add("propose", call.sender, call.id, 0, "", **facts)


def _check_segments(call: Call, action: ProposeData) -> None:
    seen: set[bytes] = set()
    for segment in action.segments:
        if not 1 <= segment.size <= SEGMENT_BYTES_MAX:
            raise BadSegmentSize(segment.digest, segment.size, SEGMENT_BYTES_MAX)
        if segment.digest in seen:
            raise DuplicateSegment(segment.digest, "in this proposal")
        seen.add(segment.digest)
        known = call.draft.segment(segment.digest)
        if known is not None and known.status != "rejected":
            where = "being voted on" if known.status == "voting" else "accepted"
            raise DuplicateSegment(segment.digest, f"{where} in proposal {known.proposal.hex()}")


def _open_proposal(call: Call, proposal_id: bytes, status: str) -> DataProposal:
    proposal = call.draft.proposal(proposal_id)
    if proposal is None:
        raise UnknownProposal(proposal_id)
    if call.sender not in proposal.committee:
        raise NotInCommittee(call.sender, proposal_id)
    if proposal.status != status:
        raise WrongPhase(f"proposal {proposal_id.hex()}", status, proposal.status)
    return proposal


def apply_commit_vote(call: Call, action: CommitVote) -> None:
    """Commit to a vote; a committee member's duty, free, once."""
    # CHECK
    proposal = _open_proposal(call, action.proposal, "committing")
    if any(voter == call.sender for voter, _ in proposal.commitments):
        raise AlreadyDone("committed a vote", call.sender)
    # CHARGE nothing
    # APPLY
    commitments = tuple(sorted((*proposal.commitments, (call.sender, action.commitment))))
    call.draft.put_proposal(replace(proposal, commitments=commitments))
    # RECEIPT: the commitment in the proposal is its own record


def apply_reveal_vote(call: Call, action: RevealVote) -> None:
    """Open a committed vote; a duty, free, once."""
    # CHECK
    proposal = _open_proposal(call, action.proposal, "revealing")
    if call.sender in proposal.revealed:
        raise AlreadyDone("opened its vote", call.sender)
    expected = dict(proposal.commitments).get(call.sender)
    if expected is None:
        raise NothingCommitted(call.sender)
    got = vote_commitment(action, call.sender)
    if got != expected:
        raise CommitmentMismatch(call.sender, expected, got)
    if len(action.scores) != len(proposal.segments):
        raise WrongShape("scores of segments", str(len(proposal.segments)), str(len(action.scores)))
    # CHARGE nothing
    # APPLY
    call.draft.put_proposal(replace(proposal, revealed=tuple(sorted((*proposal.revealed, call.sender)))))
    call.draft.write(keys.vote_key(proposal.id, call.sender), action)
    # RECEIPT: the vote in the state is its own record


def draw_committee(active: ActiveSet, beacon: bytes, proposal: bytes, size: int) -> tuple[Seat, ...]:
    """Seats of a proposal's committee, ordered by address.

    Everyone where `size` reaches the number of validators; otherwise drawn without replacement in proportion to
    stake, from the stream of `tagged_hash("committee", beacon, proposal)`.
    """
    validators = active.validators
    chosen: tuple[int, ...] = tuple(range(len(validators)))
    if size < len(validators):
        draws = Draws(tagged_hash("committee", beacon, proposal), "committee draws")
        chosen = draws.weighted_sample([entry.stake for entry in validators], size)
    return tuple(Seat(validators[index].address, validators[index].stake) for index in sorted(chosen))


def opened_ballots(view: View, proposal: DataProposal) -> tuple[list[Ballot], int]:
    """The opened ballots of a proposal in the order of addresses, and the stake of its whole committee."""
    committee = view.committee(proposal.id)
    seats = committee.seats if committee else ()
    ballots: list[Ballot] = []
    for seat in seats:
        vote = view.vote(proposal.id, seat.address)
        if vote is not None:
            ballot = Ballot(seat.stake, vote.accept, vote.harmful, vote.predicted_accept_bp, vote.scores)
            ballots.append(ballot)
    return ballots, sum(seat.stake for seat in seats)


def advance_proposals(draft: Draft, receipts: Receipts, height: int) -> None:
    """End of a block: draw committees, close phases whose deadline is reached or whose voters are done."""
    for proposal_id in draft.agenda().voting:
        proposal = draft.proposal(proposal_id)
        assert proposal is not None
        if not proposal.committee:
            _seat_committee(draft, receipts, proposal)
            continue
        proposal = _hurried(draft, proposal, height)
        if proposal.status == "committing":
            if height >= proposal.deadline or len(proposal.commitments) == len(proposal.committee):
                deadline = height + draft.params().vote_reveal_blocks
                draft.put_proposal(replace(proposal, status="revealing", deadline=deadline))
                facts = {"committed": len(proposal.commitments), "seats": len(proposal.committee)}
                receipts.add("proposal-revealing", proposal.proposer, proposal.id, 0, "", **facts)
        elif height >= proposal.deadline or len(proposal.revealed) == len(proposal.commitments):
            _decide(draft, receipts, proposal, height)


def _hurried(draft: Draft, proposal: DataProposal, height: int) -> DataProposal:
    """Bring the deadline near once two thirds of the committee's stake has acted: one absent can't hold up the rest."""
    acted = (
        {address for address, _ in proposal.commitments} if proposal.status == "committing" else {*proposal.revealed}
    )
    committee = draft.committee(proposal.id)
    assert committee is not None
    near = height + draft.params().grace_blocks
    stake = sum(seat.stake for seat in committee.seats)
    done = sum(seat.stake for seat in committee.seats if seat.address in acted)
    if done * 3 <= stake * 2 or proposal.deadline <= near:
        return proposal
    hurried = replace(proposal, deadline=near)
    draft.put_proposal(hurried)
    return hurried


def _seat_committee(draft: Draft, receipts: Receipts, proposal: DataProposal) -> None:
    seats = draw_committee(draft.active(), draft.chain().beacon, proposal.id, draft.params().committee_size)
    draft.write(keys.committee_key(proposal.id), Committee(seats))
    draft.put_proposal(replace(proposal, committee=tuple(seat.address for seat in seats)))
    stake = sum(seat.stake for seat in seats)
    receipts.add("proposal-committee", proposal.proposer, proposal.id, 0, "", seats=len(seats), stake=stake)


def _decide(draft: Draft, receipts: Receipts, proposal: DataProposal, height: int) -> None:
    params = draft.params()
    ballots, committee_stake = opened_ballots(draft, proposal)
    outcome, result = tally(params, ballots, len(proposal.segments), committee_stake)
    # What is slashed goes to the treasury and isn't burned: a burn would pay every holder of tokens, voters included.
    slashed = {"harmful": proposal.stake, "rejected": proposal.stake * params.rejected_slash_bp // 10_000}.get(
        outcome, 0
    )
    funds.seize(draft, proposal.proposer, slashed)
    funds.to_treasury(draft, slashed)
    funds.unlock(draft, proposal.proposer, proposal.stake - slashed)
    decided = replace(proposal, status=outcome, deadline=height, tally=result, decided_height=height)
    draft.put_proposal(decided)
    agenda = draft.agenda()
    voting = tuple(open_id for open_id in agenda.voting if open_id != proposal.id)
    draft.put_agenda(replace(agenda, voting=voting))
    _file_segments(draft, decided, outcome, height)
    facts = {
        "accept_bp": result.accept_bp,
        "threshold_bp": result.threshold_bp,
        "predicted_bp": result.predicted_bp,
        "dispersion_bp": result.dispersion_bp,
        "voters": result.voters,
        "opened_stake": sum(ballot.stake for ballot in ballots),
        "committee_stake": committee_stake,
        "stake": proposal.stake,
    }
    receipts.add(f"proposal-{outcome}", proposal.proposer, proposal.id, -slashed, result.rule, **facts)


def _file_segments(draft: Draft, proposal: DataProposal, outcome: ProposalOutcome, height: int) -> None:
    """Record what became of the segments, and queue an accepted proposal for training."""
    rejected = outcome in {"rejected", "harmful"}
    for segment in proposal.segments:
        if outcome == "accepted":
            draft.write(keys.segment_key(segment.digest), SegmentRecord(proposal.id, "accepted"))
        elif rejected:
            draft.write(keys.segment_key(segment.digest), SegmentRecord(proposal.id, "rejected"))
            draft.add_to_pool("rejected", segment.digest)
        else:
            draft.write(keys.segment_key(segment.digest), None)
    if outcome == "accepted" and proposal.tally and any(verdict.weight_bp for verdict in proposal.tally.segments):
        agenda = draft.agenda()
        waiting = WaitingProposal(proposal.id, height + draft.params().freeze_blocks, 0, 0)
        draft.put_agenda(Agenda(agenda.voting, (*agenda.waiting, waiting)))
