"""When training rounds open, and what closes each of their phases; runs at the end of every block.

| status | begins | ends |
|---|---|---|
| `joining` | a batch is frozen | at its deadline, or with the last place taken |
| `training` | with the data order's seed | at its deadline, or when all have committed |
| `revealing` | with the probes' seed | at its deadline, or when all who committed have revealed |
| `scoring` | | at its deadline, when all validators have reported, or `grace_blocks` after two thirds have |
| `closed`, `void` | with the verdict | |

One phase ends per block at most. Seeds are the beacon of the block that ends the phase before.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from deepshard.ledger import keys
from deepshard.ledger.probes import ProbePools, draw_probes
from deepshard.ledger.receipts import NOBODY, Receipts, round_subject
from deepshard.ledger.records import (
    Agenda,
    BatchSegment,
    DataProposal,
    Probe,
    RoundScoring,
    RoundStatus,
    TrainingRound,
    WaitingProposal,
)
from deepshard.ledger.settlement import settle
from deepshard.ledger.state import Draft, View
from deepshard.limits import ROUND_SEGMENTS_MAX, TRAINERS_MAX
from deepshard.primitives import ZERO_DIGEST

PATIENCE_FREEZES: Final = 4
"""After this many times `freeze_blocks` a round opens though proposals are still being voted on."""
RUNNING: Final[frozenset[RoundStatus]] = frozenset({"joining", "training", "revealing", "scoring"})


def advance_rounds(draft: Draft, receipts: Receipts, height: int) -> None:
    """End of a block: close the running round's phase if it is over, or open a round if one is due."""
    round_ = draft.current_round()
    if round_ is None or round_.status not in RUNNING:
        _open_if_due(draft, receipts, height)
        return
    if round_.status == "scoring":
        round_ = _hurried(draft, round_, height)
    if height >= round_.deadline or _all_acted(draft, round_):
        _end_phase(draft, receipts, round_, height)


def _hurried(draft: Draft, round_: TrainingRound, height: int) -> TrainingRound:
    """Bring the deadline near once two thirds of the stake have reported: one that is down can't hold up the rest."""
    active = draft.active().validators
    reported = sum(entry.stake for entry in active if entry.address in round_.reporters)
    near = height + draft.params().grace_blocks
    if reported * 3 <= sum(entry.stake for entry in active) * 2 or round_.deadline <= near:
        return round_
    hurried = replace(round_, deadline=near)
    draft.put_round(hurried)
    return hurried


def _all_acted(view: View, round_: TrainingRound) -> bool:
    trainers = round_.trainers
    if round_.status == "joining":
        return len(trainers) == TRAINERS_MAX
    if round_.status == "training":
        return all(entry.commitment != ZERO_DIGEST for entry in trainers)
    if round_.status == "revealing":
        return all(entry.manifest != ZERO_DIGEST for entry in trainers if entry.commitment != ZERO_DIGEST)
    reporters = set(round_.reporters)
    return all(entry.address in reporters for entry in view.active().validators)


def _end_phase(draft: Draft, receipts: Receipts, round_: TrainingRound, height: int) -> None:
    params, beacon = draft.params(), draft.chain().beacon
    committed = sum(1 for entry in round_.trainers if entry.commitment != ZERO_DIGEST)
    revealed = sum(1 for entry in round_.trainers if entry.manifest != ZERO_DIGEST)
    if round_.status == "joining" and round_.trainers:
        deadline = height + params.commit_blocks
        _enter(draft, receipts, replace(round_, status="training", deadline=deadline, order_seed=beacon))
    elif round_.status == "training" and committed:
        probes = _draw(draft, round_, beacon)
        draft.write(keys.scoring_key(round_.number), RoundScoring(probes, (), 0))
        deadline = height + params.reveal_blocks
        _enter(draft, receipts, replace(round_, status="revealing", deadline=deadline, probe_seed=beacon))
    elif round_.status == "revealing" and revealed:
        _enter(draft, receipts, replace(round_, status="scoring", deadline=height + params.report_blocks))
    else:
        settle(draft, receipts, round_, height)


def _enter(draft: Draft, receipts: Receipts, round_: TrainingRound) -> None:
    draft.put_round(round_)
    facts = {"round": round_.number, "trainers": len(round_.trainers), "deadline": round_.deadline}
    receipts.add(f"round-{round_.status}", NOBODY, round_subject(round_.number), 0, "", **facts)


def _draw(draft: Draft, round_: TrainingRound, seed: bytes) -> tuple[Probe, ...]:
    """Probes of a round. A rejected text that was accepted later is dropped: the network has learned it since."""
    batch = [segment.digest for segment in round_.batch]
    pools = ProbePools(batch, draft.heldout_pool(), draft.rejected_pool(), draft.general_pool())
    drawn = draw_probes(pools, draft.params().probes, seed)
    return tuple(probe for probe in drawn if probe.pool != "rejected" or draft.segment_owner(probe.digest) is None)


def _open_if_due(draft: Draft, receipts: Receipts, height: int) -> None:
    agenda, params = draft.agenda(), draft.params()
    if not agenda.waiting:
        return
    due = min(entry.not_before for entry in agenda.waiting)
    if height < due or (agenda.voting and height < due + (PATIENCE_FREEZES - 1) * params.freeze_blocks):
        return
    proposals, batch = _freeze(draft, agenda)
    chain = draft.chain()
    number = chain.round + 1
    draft.write(keys.CHAIN, replace(chain, round=number))
    round_ = TrainingRound(
        number=number,
        base_version=chain.version,
        status="joining",
        opened_height=height,
        deadline=height + params.join_blocks,
        proposals=tuple(proposal.id for proposal in proposals),
        batch=batch,
        order_seed=ZERO_DIGEST,
        probe_seed=ZERO_DIGEST,
        trainers=(),
        reporters=(),
        medoid=None,
        reason="",
    )
    draft.put_round(round_)
    facts = {"round": number, "segments": len(batch), "proposals": len(proposals)}
    receipts.add("round-opened", NOBODY, round_subject(number), 0, "", **facts)


def _freeze(draft: Draft, agenda: Agenda) -> tuple[list[DataProposal], tuple[BatchSegment, ...]]:
    """Accepted, untrained proposals by the height of their decision and id, and their segments with a weight.

    A batch holds whole proposals only, up to `ROUND_SEGMENTS_MAX` segments.
    """
    waiting = [_waiting_proposal(draft, entry) for entry in agenda.waiting]
    taken: list[DataProposal] = []
    batch: list[BatchSegment] = []
    for proposal in sorted(waiting, key=lambda one: (one.decided_height, one.id)):
        assert proposal.tally is not None
        segments = [
            BatchSegment(segment.digest, segment.size, verdict.weight_bp, proposal.id)
            for segment, verdict in zip(proposal.segments, proposal.tally.segments, strict=True)
            if verdict.weight_bp > 0
        ]
        if len(batch) + len(segments) > ROUND_SEGMENTS_MAX:
            break
        taken.append(proposal)
        batch += segments
    return taken, tuple(batch)


def _waiting_proposal(draft: Draft, entry: WaitingProposal) -> DataProposal:
    proposal = draft.proposal(entry.id)
    assert proposal is not None
    return proposal
