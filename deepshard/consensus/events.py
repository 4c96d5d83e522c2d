"""What goes into the consensus core and what comes out: the whole of its interface with its host.

The host must, for each effect:

- `BuildValue`: build a block on the parent and answer with `ValueBuilt`. If the signing guard holds a proposal for this
  round (the node crashed after it signed), answer with that block's id instead.
- `Propose`: pass the guard, sign, send with the block, and feed the proposal back as `ProposalReceived`. Before one
  with a valid round, send the proofs of it (`core.lock_proofs`): not everybody need have seen those votes.
- `CastVote`: pass the guard together with `State.safety()`, sign, send, and feed the vote back as `VoteReceived`.
- `ScheduleTimeout`: after a delay that grows with the round, answer with `TimeoutElapsed`.
- `Decide`: store block and certificate, then feed `StartHeight` of the next height.

While a height is undecided the host repeats what it has: its own votes and proposals of the height, and the
proposals and votes of others it knows to be missing elsewhere. The algorithm's progress rests on messages arriving
eventually, and votes of an equivocator may be refused until others have spoken (see `tally`).

A block must be stored before its `ProposalReceived(valid=True)` is fed: a lock is worthless without its block.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepshard.ballots import NO_ROUND, Proposal, Vote, VoteKind
from deepshard.consensus.types import CommitCertificate, LockProof, SafetyState, Step
from deepshard.consensus.validators import ValidatorSet


@dataclass(frozen=True, slots=True)
class StartHeight:
    """Begin a height. `me` is None, or no member, for a follower; `safety` resumes this height after a crash."""

    height: int
    validators: ValidatorSet
    me: bytes | None
    safety: SafetyState | None = None


@dataclass(frozen=True, slots=True)
class ProposalReceived:
    """A proposal with a verified signature; `valid` tells whether its block was found valid and executes."""

    proposal: Proposal
    valid: bool


@dataclass(frozen=True, slots=True)
class VoteReceived:
    """A vote with a verified signature."""

    vote: Vote


@dataclass(frozen=True, slots=True)
class LockProofReceived:
    """A proof-of-lock with verified signatures: its votes are taken though their voters may have said other things."""

    proof: LockProof


@dataclass(frozen=True, slots=True)
class TimeoutElapsed:
    """A timeout asked for by `ScheduleTimeout` is over."""

    step: Step
    height: int
    round: int


@dataclass(frozen=True, slots=True)
class ValueBuilt:
    """Answer to `BuildValue`."""

    height: int
    round: int
    block_id: bytes


@dataclass(frozen=True, slots=True)
class BuildValue:
    """We propose in this round and need a fresh block."""

    height: int
    round: int


@dataclass(frozen=True, slots=True)
class Propose:
    """Sign and send a proposal; `valid_round` is -1 for a fresh block."""

    height: int
    round: int
    valid_round: int
    block_id: bytes


@dataclass(frozen=True, slots=True)
class CastVote:
    """Sign and send a vote; `block_id` is `ZERO_DIGEST` for nil."""

    kind: VoteKind
    height: int
    round: int
    block_id: bytes
    valid_round: int = NO_ROUND
    """Round of the proof-of-lock that a prevote rests on."""


@dataclass(frozen=True, slots=True)
class ScheduleTimeout:
    """Wake us for this step of this round."""

    step: Step
    height: int
    round: int


@dataclass(frozen=True, slots=True)
class Decide:
    """The height is decided; `certificate` proves it to anyone."""

    height: int
    round: int
    block_id: bytes
    certificate: CommitCertificate


@dataclass(frozen=True, slots=True)
class Equivocation:
    """One validator signed two different votes of one kind in one round: evidence."""

    vote_a: Vote
    vote_b: Vote


@dataclass(frozen=True, slots=True)
class ProposalEquivocation:
    """One proposer signed two different proposals in one round: evidence."""

    proposal_a: Proposal
    proposal_b: Proposal


@dataclass(frozen=True, slots=True)
class LockForgotten:
    """One validator prevoted against its own precommit without a proof-of-lock: evidence (`evidence.Amnesia`)."""

    precommit: Vote
    prevote: Vote


Input = StartHeight | ProposalReceived | VoteReceived | LockProofReceived | TimeoutElapsed | ValueBuilt
Effect = (
    BuildValue | Propose | CastVote | ScheduleTimeout | Decide | Equivocation | ProposalEquivocation | LockForgotten
)
