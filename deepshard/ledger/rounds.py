"""Training rounds as trainers and validators act in them; `schedule` opens and closes their phases."""

from __future__ import annotations

from msgspec.structs import replace

from deepshard.ledger import funds, keys
from deepshard.ledger.call import Call
from deepshard.ledger.faults import (
    AlreadyDone,
    CommitmentMismatch,
    LimitReached,
    NotATrainer,
    NotAValidator,
    NothingCommitted,
    StakeTooLow,
    UnknownRound,
    WrongPhase,
    WrongShape,
)
from deepshard.ledger.receipts import round_subject
from deepshard.ledger.records import TrainerEntry, TrainingRound
from deepshard.ledger.sampling import Draws
from deepshard.ledger.transactions import (
    CommitWeights,
    JoinRound,
    ReportScores,
    RevealWeights,
    SubmissionReport,
    weights_commitment,
)
from deepshard.limits import SKETCH_BUCKETS, TRAINERS_MAX
from deepshard.primitives import ZERO_DIGEST, format_address


def data_order(seed: bytes, count: int, passes: int) -> tuple[tuple[int, ...], ...]:
    """The one order in which every trainer of a round takes the batch: a permutation of 0 to `count` - 1 per pass.

    All passes read one stream, `sampling.Draws(seed, "data order")`, one Fisher-Yates shuffle after the other.
    """
    draws = Draws(seed, "data order")
    return tuple(draws.permutation(count) for _ in range(passes))


def _round(call: Call, number: int, status: str) -> TrainingRound:
    round_ = call.draft.round(number)
    if round_ is None:
        raise UnknownRound(number)
    if round_.status != status:
        raise WrongPhase(f"training round {number}", status, round_.status)
    return round_


def _entry(call: Call, round_: TrainingRound) -> TrainerEntry:
    for entry in round_.trainers:
        if entry.address == call.sender:
            return entry
    raise NotATrainer(call.sender, round_.number)


def with_entry(round_: TrainingRound, entry: TrainerEntry) -> TrainingRound:
    """The round with the entry of one trainer put in place, in the order of addresses."""
    others = [other for other in round_.trainers if other.address != entry.address]
    return replace(round_, trainers=tuple(sorted((*others, entry), key=lambda one: one.address)))


def apply_join_round(call: Call, action: JoinRound) -> None:
    """Join as a trainer, with stake."""
    # CHECK
    round_ = _round(call, action.round, "joining")
    if any(entry.address == call.sender for entry in round_.trainers):
        raise AlreadyDone("joined the round", call.sender)
    minimum = max(1, call.params.trainer_stake_min)
    if action.stake < minimum:
        raise StakeTooLow("trainer stake", action.stake, minimum)
    if len(round_.trainers) >= TRAINERS_MAX:
        raise LimitReached("trainers in a round", TRAINERS_MAX)
    call.require(action.stake)
    # CHARGE
    call.charge_fee()
    # APPLY
    funds.lock(call.draft, call.sender, action.stake)
    unknown = ZERO_DIGEST
    entry = TrainerEntry(call.sender, action.stake, unknown, unknown, unknown, unknown, 0, unknown, "pending", "", 0)
    call.draft.put_round(with_entry(round_, entry))
    # RECEIPT
    facts = {"round": round_.number, "stake": action.stake}
    call.receipts.add("join", call.sender, round_subject(round_.number), 0, "", **facts)


def apply_commit_weights(call: Call, action: CommitWeights) -> None:
    """Commit to a submission, once."""
    # CHECK
    round_ = _round(call, action.round, "training")
    entry = _entry(call, round_)
    if entry.commitment != ZERO_DIGEST:
        raise AlreadyDone("committed to weights", call.sender)
    if action.commitment == ZERO_DIGEST:
        raise WrongShape("commitment", "a hash", "zeros")
    call.require(0)
    # CHARGE
    call.charge_fee()
    # APPLY
    call.draft.put_round(with_entry(round_, replace(entry, commitment=action.commitment)))
    # RECEIPT: the commitment in the round is its own record


def apply_reveal_weights(call: Call, action: RevealWeights) -> None:
    """Open a commitment; a duty of whoever committed, free, once."""
    # CHECK
    round_ = _round(call, action.round, "revealing")
    entry = _entry(call, round_)
    if entry.commitment == ZERO_DIGEST:
        raise NothingCommitted(call.sender)
    if entry.manifest != ZERO_DIGEST:
        raise AlreadyDone("revealed its weights", call.sender)
    if action.manifest == ZERO_DIGEST:
        raise WrongShape("manifest", "a content address", "zeros")
    got = weights_commitment(action, call.sender)
    if got != entry.commitment:
        raise CommitmentMismatch(call.sender, entry.commitment, got)
    # CHARGE nothing
    # APPLY
    revealed = replace(
        entry,
        manifest=action.manifest,
        weights_root=action.weights_root,
        chunks_root=action.chunks_root,
        shard_count=action.shard_count,
        checkpoint_root=action.checkpoint_root,
    )
    call.draft.put_round(with_entry(round_, revealed))
    # RECEIPT: the entry in the round is its own record


def apply_report_scores(call: Call, action: ReportScores) -> None:
    """Report on all revealed submissions; a duty of active validators, free, once."""
    # CHECK
    round_ = _round(call, action.round, "scoring")
    if all(entry.address != call.sender for entry in call.draft.active().validators):
        raise NotAValidator(call.sender)
    if call.sender in round_.reporters:
        raise AlreadyDone("reported on the round", call.sender)
    scoring = call.draft.scoring(round_.number)
    assert scoring is not None
    expected = [entry.address for entry in round_.trainers if entry.manifest != ZERO_DIGEST]
    got = [submission.trainer for submission in action.submissions]
    if expected != got:
        raise WrongShape("reported trainers", _names(expected), _names(got))
    for submission in action.submissions:
        _check_submission(submission, len(scoring.probes))
    probes = len(scoring.probes) if any(submission.available for submission in action.submissions) else 0
    if len(action.base) != probes:
        raise WrongShape("probes of the base", str(probes), str(len(action.base)))
    # CHARGE nothing
    # APPLY
    reporters = tuple(sorted((*round_.reporters, call.sender)))
    call.draft.put_round(replace(round_, reporters=reporters))
    call.draft.write(keys.report_key(round_.number, call.sender), action)
    # RECEIPT: the report in the state is its own record


def _names(addresses: list[bytes]) -> str:
    return ", ".join(format_address(address) for address in addresses) or "none"


def _check_submission(submission: SubmissionReport, probes: int) -> None:
    expected = (probes, SKETCH_BUCKETS) if submission.available else (0, 0)
    got = (len(submission.profile), len(submission.sketch))
    if expected != got:
        what = f"probes and sketch values of {format_address(submission.trainer)}"
        raise WrongShape(what, f"{expected[0]} and {expected[1]}", f"{got[0]} and {got[1]}")
