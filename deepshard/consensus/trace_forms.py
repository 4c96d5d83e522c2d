"""The JSON form of a trace (`protocol-spec/consensus-trace.md`): what stands in a file, field by field.

A form has the name of what it stands for (`events.VoteReceived`), and its `type` is that name in lower case with
hyphens. Bytes are hexadecimal, nil is null, and an absent signature is one of 64 zero bytes: the core looks at none.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from deepshard.limits import VALIDATORS_MAX

FORMAT: Final = "deepshard consensus trace v1"
STEPS_MAX: Final = 1 << 20
INTEGER_MAX: Final = 2**53 - 1
"""Larger integers are written as decimal strings: a double holds no more."""

Hex20 = Annotated[str, Meta(pattern="^[0-9a-f]{40}", max_length=40)]
Hex32 = Annotated[str, Meta(pattern="^[0-9a-f]{64}", max_length=64)]
Hex64 = Annotated[str, Meta(pattern="^[0-9a-f]{128}", max_length=128)]
# Where a newline ends the text, `$` matches before it, too.
Whole = Annotated[int, Meta(ge=0, le=2**62)] | Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]*)$(?!\n)", max_length=19)]
Round = Annotated[int, Meta(ge=0, le=2**31 - 1)]
ValidRound = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
StepName = Literal["propose", "prevote", "precommit"]
VoteName = Literal["prevote", "precommit"]
Text = Annotated[str, Meta(max_length=1000)]


def _type_of(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


class Form(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of all forms: unknown fields are refused, optional ones left out."""


class Tagged(Form, frozen=True, tag_field="type", tag=_type_of):
    """A form that tells by `type` which it is."""


class Validator(Form, frozen=True):
    """A validator; the address is that of the key (3.1)."""

    address: Hex20
    public_key: Hex32
    power: Whole


Validators = Annotated[tuple[Validator, ...], Meta(min_length=1, max_length=VALIDATORS_MAX)]


class Vote(Form, frozen=True):
    """A prevote or precommit; `block_id` is null for nil."""

    kind: VoteName
    height: Whole
    round: Round
    valid_round: ValidRound
    block_id: Hex32 | None
    validator: Hex20
    signature: Hex64 | None = None


class Proposal(Form, frozen=True):
    """A proposal; `block_id` is null for one of nil, which is always refused."""

    height: Whole
    round: Round
    valid_round: ValidRound
    block_id: Hex32 | None
    proposer: Hex20
    signature: Hex64 | None = None


class LockProofVote(Form, frozen=True):
    """A prevote of a proof-of-lock."""

    validator: Hex20
    valid_round: ValidRound
    signature: Hex64 | None = None


class LockProof(Form, frozen=True):
    """Prevotes for a block in a round."""

    height: Whole
    round: Round
    block_id: Hex32 | None
    votes: Annotated[tuple[LockProofVote, ...], Meta(max_length=VALIDATORS_MAX)]


class CommitSignature(Form, frozen=True):
    """Whose precommit a certificate holds."""

    validator: Hex20
    signature: Hex64 | None = None


class Safety(Form, frozen=True):
    """What a restarted validator resumes with."""

    height: Whole
    round: Round
    step: StepName
    locked_round: ValidRound
    locked_id: Hex32 | None
    valid_round: ValidRound
    valid_id: Hex32 | None


class State(Safety, frozen=True):
    """The state after an input; `decision` is null until the height is decided."""

    decision: Hex32 | None


class StartHeight(Tagged, frozen=True):
    """Input: begin a height, or resume it with `safety`; without `validators` and `me`, with those of the trace."""

    height: Whole
    validators: Validators | None = None
    me: Hex20 | UnsetType | None = UNSET
    safety: Safety | None = None


class ProposalReceived(Tagged, frozen=True):
    """Input: a proposal, and whether its block is valid."""

    proposal: Proposal
    valid: bool


class VoteReceived(Tagged, frozen=True):
    """Input: a vote."""

    vote: Vote


class LockProofReceived(Tagged, frozen=True):
    """Input: a proof-of-lock in one piece."""

    proof: LockProof


class TimeoutElapsed(Tagged, frozen=True):
    """Input: a timeout is over."""

    step: StepName
    height: Whole
    round: Round


class ValueBuilt(Tagged, frozen=True):
    """Input: the answer to `build-value`."""

    height: Whole
    round: Round
    block_id: Hex32 | None


class BuildValue(Tagged, frozen=True):
    """Effect: a fresh block is wanted."""

    height: Whole
    round: Round


class Propose(Tagged, frozen=True):
    """Effect: sign and send a proposal."""

    height: Whole
    round: Round
    valid_round: ValidRound
    block_id: Hex32 | None


class CastVote(Tagged, frozen=True):
    """Effect: sign and send a vote."""

    kind: VoteName
    height: Whole
    round: Round
    valid_round: ValidRound
    block_id: Hex32 | None


class ScheduleTimeout(Tagged, frozen=True):
    """Effect: ask for a timeout."""

    step: StepName
    height: Whole
    round: Round


class Decide(Tagged, frozen=True):
    """Effect: a block is decided, by these precommits of one round."""

    height: Whole
    round: Round
    block_id: Hex32 | None
    certificate: Annotated[tuple[CommitSignature, ...], Meta(max_length=VALIDATORS_MAX)]


class Equivocation(Tagged, frozen=True):
    """Effect: evidence of two votes."""

    vote_a: Vote
    vote_b: Vote


class ProposalEquivocation(Tagged, frozen=True):
    """Effect: evidence of two proposals."""

    proposal_a: Proposal
    proposal_b: Proposal


class LockForgotten(Tagged, frozen=True):
    """Effect: evidence of a prevote against a precommit."""

    precommit: Vote
    prevote: Vote


Input = StartHeight | ProposalReceived | VoteReceived | LockProofReceived | TimeoutElapsed | ValueBuilt
Effect = (
    BuildValue | Propose | CastVote | ScheduleTimeout | Decide | Equivocation | ProposalEquivocation | LockForgotten
)


class TraceStep(Form, frozen=True):
    """An input and what came of it; effects or state that are left out are not compared."""

    input: Input
    effects: tuple[Effect, ...] | None = None
    state: State | None = None


class Trace(Form, frozen=True, kw_only=True):
    """The whole file."""

    format: Literal["deepshard consensus trace v1"]
    source: Text = ""
    chain_id: Text
    validators: Validators
    me: Hex20 | None
    steps: Annotated[tuple[TraceStep, ...], Meta(min_length=1, max_length=STEPS_MAX)]


def json_schema() -> dict[str, Any]:
    """JSON Schema of a trace file."""
    return msgspec.json.schema(Trace)
