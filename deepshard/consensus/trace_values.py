"""Between the core's values and their forms in a trace."""

from __future__ import annotations

from typing import Final

from msgspec import UNSET, UnsetType

from deepshard.ballots import Proposal, Vote, VoteKind
from deepshard.consensus import events
from deepshard.consensus import trace_forms as forms
from deepshard.consensus.types import (
    CommitCertificate,
    CommitSignature,
    LockProof,
    LockProofVote,
    SafetyState,
    Step,
    Validator,
)
from deepshard.consensus.validators import ValidatorSet
from deepshard.primitives import ZERO_DIGEST

_NO_SIGNATURE: Final = bytes(64)
_STEPS: Final[dict[Step, forms.StepName]] = {
    Step.PROPOSE: "propose",
    Step.PREVOTE: "prevote",
    Step.PRECOMMIT: "precommit",
}
_KINDS: Final[dict[VoteKind, forms.VoteName]] = {VoteKind.PREVOTE: "prevote", VoteKind.PRECOMMIT: "precommit"}


# -- values as forms ---------------------------------------------------------------------------------------------------


def write_input(event: events.Input, validators: ValidatorSet, me: bytes | None) -> forms.Input:
    """Form of an input; a `StartHeight` leaves out the validators and `me` where they are these, those of its trace."""
    match event:
        case events.StartHeight(height=height):
            return forms.StartHeight(
                _write_whole(height),
                None if event.validators == validators else write_validators(event.validators),
                UNSET if event.me == me else write_me(event.me),
                None if event.safety is None else write_safety(event.safety),
            )
        case events.ProposalReceived(proposal=proposal, valid=valid):
            return forms.ProposalReceived(_write_proposal(proposal), valid)
        case events.VoteReceived(vote=vote):
            return forms.VoteReceived(_write_vote(vote))
        case events.LockProofReceived(proof=proof):
            votes = tuple(
                forms.LockProofVote(one.validator.hex(), one.valid_round, _write_signature(one.signature))
                for one in proof.votes
            )
            form = forms.LockProof(_write_whole(proof.height), proof.round, _write_id(proof.block_id), votes)
            return forms.LockProofReceived(form)
        case events.TimeoutElapsed(step=step, height=height, round=round_):
            return forms.TimeoutElapsed(_STEPS[step], _write_whole(height), round_)
        case events.ValueBuilt(height=height, round=round_, block_id=block_id):
            return forms.ValueBuilt(_write_whole(height), round_, _write_id(block_id))


def write_effect(effect: events.Effect) -> forms.Effect:
    """Form of an effect."""
    match effect:
        case events.BuildValue(height=height, round=round_):
            return forms.BuildValue(_write_whole(height), round_)
        case events.Propose(height=height, round=round_, valid_round=valid_round, block_id=block_id):
            return forms.Propose(_write_whole(height), round_, valid_round, _write_id(block_id))
        case events.CastVote(kind=kind, height=height, round=round_, block_id=block_id, valid_round=valid_round):
            return forms.CastVote(_KINDS[kind], _write_whole(height), round_, valid_round, _write_id(block_id))
        case events.ScheduleTimeout(step=step, height=height, round=round_):
            return forms.ScheduleTimeout(_STEPS[step], _write_whole(height), round_)
        case events.Decide(height=height, round=round_, block_id=block_id, certificate=certificate):
            signatures = tuple(
                forms.CommitSignature(one.validator.hex(), _write_signature(one.signature))
                for one in certificate.signatures
            )
            return forms.Decide(_write_whole(height), round_, _write_id(block_id), signatures)
        case events.Equivocation(vote_a=vote_a, vote_b=vote_b):
            return forms.Equivocation(_write_vote(vote_a), _write_vote(vote_b))
        case events.ProposalEquivocation(proposal_a=proposal_a, proposal_b=proposal_b):
            return forms.ProposalEquivocation(_write_proposal(proposal_a), _write_proposal(proposal_b))
        case events.LockForgotten(precommit=precommit, prevote=prevote):
            return forms.LockForgotten(_write_vote(precommit), _write_vote(prevote))


def write_state(safety: SafetyState, decision: bytes | None) -> forms.State:
    """Form of what a state is summed up to."""
    lock = (safety.locked_round, _write_id(safety.locked_id))
    valid = (safety.valid_round, _write_id(safety.valid_id))
    decided = None if decision is None else decision.hex()
    return forms.State(_write_whole(safety.height), safety.round, _STEPS[safety.step], *lock, *valid, decided)


def write_safety(safety: SafetyState) -> forms.Safety:
    """Form of what a validator resumes with."""
    lock = (safety.locked_round, _write_id(safety.locked_id))
    valid = (safety.valid_round, _write_id(safety.valid_id))
    return forms.Safety(_write_whole(safety.height), safety.round, _STEPS[safety.step], *lock, *valid)


def write_validators(validators: ValidatorSet) -> tuple[forms.Validator, ...]:
    """Form of a set."""
    return tuple(
        forms.Validator(one.address.hex(), one.public_key.hex(), _write_whole(one.power))
        for one in validators.validators
    )


def write_me(me: bytes | None) -> str | None:
    """Form of an address that may be missing."""
    return None if me is None else me.hex()


def _write_vote(vote: Vote) -> forms.Vote:
    return forms.Vote(
        _KINDS[vote.kind],
        _write_whole(vote.height),
        vote.round,
        vote.valid_round,
        _write_id(vote.block_id),
        vote.validator.hex(),
        _write_signature(vote.signature),
    )


def _write_proposal(proposal: Proposal) -> forms.Proposal:
    return forms.Proposal(
        _write_whole(proposal.height),
        proposal.round,
        proposal.valid_round,
        _write_id(proposal.block_id),
        proposal.proposer.hex(),
        _write_signature(proposal.signature),
    )


def _write_whole(number: int) -> int | str:
    return number if number <= forms.INTEGER_MAX else str(number)


def _write_id(block_id: bytes) -> str | None:
    return None if block_id == ZERO_DIGEST else block_id.hex()


def _write_signature(signature: bytes) -> str | None:
    return None if signature == _NO_SIGNATURE else signature.hex()


# -- forms as values ---------------------------------------------------------------------------------------------------


def read_input(form: forms.Input, validators: ValidatorSet, me: bytes | None) -> events.Input:
    """Invert `write_input`.

    Raises:
        ValueError: a number is too large, or the validators are no set.
    """
    match form:
        case forms.StartHeight():
            return events.StartHeight(
                _read_whole(form.height),
                validators if form.validators is None else read_validators(form.validators),
                me if isinstance(form.me, UnsetType) else read_me(form.me),
                None if form.safety is None else _read_safety(form.safety),
            )
        case forms.ProposalReceived(proposal=proposal, valid=valid):
            return events.ProposalReceived(_read_proposal(proposal), valid)
        case forms.VoteReceived(vote=vote):
            return events.VoteReceived(_read_vote(vote))
        case forms.LockProofReceived(proof=proof):
            votes = tuple(
                LockProofVote(bytes.fromhex(one.validator), one.valid_round, _read_signature(one.signature))
                for one in proof.votes
            )
            read = LockProof(_read_whole(proof.height), proof.round, _read_id(proof.block_id), votes)
            return events.LockProofReceived(read)
        case forms.TimeoutElapsed(step=step, height=height, round=round_):
            return events.TimeoutElapsed(Step[step.upper()], _read_whole(height), round_)
        case forms.ValueBuilt(height=height, round=round_, block_id=block_id):
            return events.ValueBuilt(_read_whole(height), round_, _read_id(block_id))


def read_effect(form: forms.Effect) -> events.Effect:
    """Invert `write_effect`.

    Raises:
        ValueError: a number is too large.
    """
    match form:
        case forms.BuildValue(height=height, round=round_):
            return events.BuildValue(_read_whole(height), round_)
        case forms.Propose(height=height, round=round_, valid_round=valid_round, block_id=block_id):
            return events.Propose(_read_whole(height), round_, valid_round, _read_id(block_id))
        case forms.CastVote(kind=kind, height=height, round=round_, valid_round=valid_round, block_id=block_id):
            read = _read_whole(height)
            return events.CastVote(VoteKind[kind.upper()], read, round_, _read_id(block_id), valid_round)
        case forms.ScheduleTimeout(step=step, height=height, round=round_):
            return events.ScheduleTimeout(Step[step.upper()], _read_whole(height), round_)
        case forms.Decide(height=height, round=round_, block_id=block_id, certificate=certificate):
            signatures = tuple(
                CommitSignature(bytes.fromhex(one.validator), _read_signature(one.signature)) for one in certificate
            )
            place = (_read_whole(height), round_, _read_id(block_id))
            return events.Decide(*place, CommitCertificate(*place, signatures))
        case forms.Equivocation(vote_a=vote_a, vote_b=vote_b):
            return events.Equivocation(_read_vote(vote_a), _read_vote(vote_b))
        case forms.ProposalEquivocation(proposal_a=proposal_a, proposal_b=proposal_b):
            return events.ProposalEquivocation(_read_proposal(proposal_a), _read_proposal(proposal_b))
        case forms.LockForgotten(precommit=precommit, prevote=prevote):
            return events.LockForgotten(_read_vote(precommit), _read_vote(prevote))


def read_state(form: forms.State) -> tuple[SafetyState, bytes | None]:
    """Invert `write_state`.

    Raises:
        ValueError: a number is too large.
    """
    return _read_safety(form), None if form.decision is None else bytes.fromhex(form.decision)


def read_validators(listed: tuple[forms.Validator, ...]) -> ValidatorSet:
    """Invert `write_validators`.

    Raises:
        ValueError: they are no set, with what is wrong.
    """
    return ValidatorSet(
        tuple(
            Validator(bytes.fromhex(one.address), bytes.fromhex(one.public_key), _read_whole(one.power))
            for one in listed
        )
    )


def read_me(me: str | None) -> bytes | None:
    """Invert `write_me`."""
    return None if me is None else bytes.fromhex(me)


def _read_safety(form: forms.Safety) -> SafetyState:
    return SafetyState(
        _read_whole(form.height),
        form.round,
        Step[form.step.upper()],
        form.locked_round,
        _read_id(form.locked_id),
        form.valid_round,
        _read_id(form.valid_id),
    )


def _read_vote(form: forms.Vote) -> Vote:
    return Vote(
        VoteKind[form.kind.upper()],
        _read_whole(form.height),
        form.round,
        form.valid_round,
        _read_id(form.block_id),
        bytes.fromhex(form.validator),
        _read_signature(form.signature),
    )


def _read_proposal(form: forms.Proposal) -> Proposal:
    return Proposal(
        _read_whole(form.height),
        form.round,
        form.valid_round,
        _read_id(form.block_id),
        bytes.fromhex(form.proposer),
        _read_signature(form.signature),
    )


def _read_whole(number: int | str) -> int:
    value = int(number)
    if value > 2**62:
        raise ValueError(f"{value} is more than 2^62")
    return value


def _read_id(block_id: str | None) -> bytes:
    return ZERO_DIGEST if block_id is None else bytes.fromhex(block_id)


def _read_signature(signature: str | None) -> bytes:
    return _NO_SIGNATURE if signature is None else bytes.fromhex(signature)
