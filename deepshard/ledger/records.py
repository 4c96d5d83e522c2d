"""What the ledger keeps: the values in the state tree, and receipts."""

from __future__ import annotations

from typing import Literal

from deepshard.chunk_tree import ShardCount
from deepshard.encoding import Record
from deepshard.evidence import OffenceKind
from deepshard.ledger.params import TallyRule
from deepshard.ledger.transactions import AxisScores, SegmentRef
from deepshard.primitives import Address, Amount, BasisPoints, Count, Digest, Height, PublicKey


class Unbonding(Record, frozen=True):
    """Stake on its way back to the balance."""

    amount: Amount
    release_height: Height


class Account(Record, frozen=True):
    """An account; `locked` is stake in proposals and rounds."""

    nonce: Count = 0
    balance: Amount = 0
    locked: Amount = 0
    unbonding: tuple[Unbonding, ...] = ()


class ValidatorRecord(Record, frozen=True):
    """A validator's bond and its hash onion: `onion_tip` is the hash of the next preimage to reveal."""

    public_key: PublicKey
    stake: Amount
    onion_tip: Digest


class Conviction(Record, frozen=True):
    """That a validator was convicted by evidence, the latest time, and what came of it."""

    kind: OffenceKind
    evidence: Digest
    """Id of the evidence."""
    offence_height: Height
    height: Height
    """Of the block that holds the report."""
    covered_height: Height
    """No evidence of an offence up to this height counts any more: the last one of the epoch of `height`."""
    jailed_until: Height
    """From this height on it may ask to be let back in; 0 once it has."""
    slashed: Amount
    """Lost in all convictions."""
    count: Count
    """Convictions so far."""


class Supply(Record, frozen=True):
    """Totals: sum of balances, locked, unbonding and bonded stake, and treasury equals genesis + minted - burned."""

    genesis: Amount
    minted: Amount
    burned: Amount
    treasury: Amount


class ModelVersion(Record, frozen=True):
    """Weights the network accepted; `value` is the accumulated information gain in millinats the price rises with."""

    version: Count
    manifest: Digest
    weights_root: Digest
    chunks_root: Digest
    shard_count: ShardCount
    height: Height
    value: Amount


ProposalStatus = Literal["committing", "revealing", "accepted", "rejected", "harmful", "contested", "trained"]


class SegmentVerdict(Record, frozen=True):
    """Tally of one segment: the median of each axis and the training weight that follows."""

    medians: AxisScores
    weight_bp: BasisPoints


class Tally(Record, frozen=True):
    """How a proposal was judged, with the numbers the rule used."""

    rule: TallyRule
    accept_bp: BasisPoints
    threshold_bp: BasisPoints
    predicted_bp: BasisPoints
    dispersion_bp: BasisPoints
    voters: Count
    segments: tuple[SegmentVerdict, ...]


class DataProposal(Record, frozen=True):
    """A data proposal through its life; `deadline` is the last height of the current status."""

    id: Digest
    proposer: Address
    segments: tuple[SegmentRef, ...]
    title: str
    language: str
    licence: str
    stake: Amount
    opened_height: Height
    status: ProposalStatus
    deadline: Height
    committee: tuple[Address, ...]
    commitments: tuple[tuple[Address, Digest], ...]
    revealed: tuple[Address, ...]
    tally: Tally | None
    decided_height: Height


RoundStatus = Literal["joining", "training", "revealing", "scoring", "closed", "void"]
TrainerOutcome = Literal["pending", "accepted", "slashed", "returned"]
OutcomeReason = Literal[
    "",
    "similar-majority",
    "medoid",
    "not-committed",
    "not-revealed",
    "unavailable",
    "no-progress",
    "unsound",
    "dissimilar",
    "void-no-majority",
    "void-no-submission",
    "void-no-reports",
]


class BatchSegment(Record, frozen=True):
    """A segment of the frozen batch and its weight in the loss."""

    digest: Digest
    size: Count
    weight_bp: BasisPoints
    proposal: Digest


class TrainerEntry(Record, frozen=True):
    """A trainer in a round: its stake, what it committed and revealed, and what became of it.

    Digests are `ZERO_DIGEST` until known. `paid` is the reward, or minus the slash.
    """

    address: Address
    stake: Amount
    commitment: Digest
    manifest: Digest
    weights_root: Digest
    chunks_root: Digest
    shard_count: ShardCount
    checkpoint_root: Digest
    outcome: TrainerOutcome
    reason: OutcomeReason
    paid: int


class TrainingRound(Record, frozen=True):
    """A training round; `deadline` is the last height of the current status. Trainers are ordered by address."""

    number: Count
    base_version: Count
    status: RoundStatus
    opened_height: Height
    deadline: Height
    proposals: tuple[Digest, ...]
    batch: tuple[BatchSegment, ...]
    order_seed: Digest
    """Beacon at the close of joining: fixes one data order for all. Zero before."""
    probe_seed: Digest
    """Beacon at the close of commits: draws the probes and the sketch. Zero before."""
    trainers: tuple[TrainerEntry, ...]
    reporters: tuple[Address, ...]
    medoid: Address | None
    reason: OutcomeReason


class Licence(Record, frozen=True):
    """The right to fetch weights of versions `first_version` to `last_version`."""

    buyer: PublicKey
    first_version: Count
    last_version: Count
    price: Amount
    height: Height


class StorageTerms(Record, frozen=True):
    """What a validator said of its storage in an earlier epoch."""

    capacity: Amount
    operator: str
    network: str


class StorageOffer(Record, frozen=True):
    """What a validator says of its storage: bytes of weights it wants to hold at most, and what it shares with others.

    `epoch` is that of the transaction: there is one change in an epoch at most, since each may move data. `before` is
    what it said before: audits of that epoch go by it.
    """

    capacity: Amount
    operator: str
    network: str
    epoch: Count
    before: StorageTerms | None


class AuditedShard(Record, frozen=True):
    """A shard that was drawn for an audit. `due` and `answered`, ordered, are known once its leaf was shown."""

    shard: Count
    shown: bool
    due: tuple[Address, ...]
    answered: tuple[Address, ...]


class AuditOutcome(Record, frozen=True):
    """Of how many shards a holder was asked, how many of them it failed to show, and what it lost."""

    holder: Address
    asked: Count
    failed: Count
    bonded: Amount
    unbonding: Amount


class Audit(Record, frozen=True):
    """The audit of an epoch; answers are taken up to the block of height `deadline`. `outcomes` come when it closes."""

    epoch: Count
    version: Count
    seed: Digest
    """The beacon of the block in which it was drawn."""
    opened_height: Height
    deadline: Height
    shards: tuple[AuditedShard, ...]
    outcomes: tuple[AuditOutcome, ...]
    closed: bool


class Chain(Record, frozen=True):
    """Progress of the chain itself: height, beacon, and the numbers of the current round and epoch."""

    height: Height
    beacon: Digest
    round: Count
    """Number of the latest training round; 0 before the first."""
    version: Count
    epoch: Count


class Receipt(Record, frozen=True):
    """One thing that happened and why: `facts` are the inputs of the rule, by name.

    `amount` is the change of the account's total (balance and stake) in base units; negative for a slash or fee.
    """

    height: Height
    kind: str
    account: Address
    subject: Digest
    amount: int
    reason: str
    facts: tuple[tuple[str, int | str], ...]


class ActiveValidator(Record, frozen=True):
    """A validator as consensus counts it during the current epoch."""

    address: Address
    public_key: PublicKey
    stake: Amount


class ActiveSet(Record, frozen=True):
    """The validators of the next height, ordered by address; changes at epoch boundaries only."""

    validators: tuple[ActiveValidator, ...]


SegmentStatus = Literal["voting", "accepted", "rejected"]


class SegmentRecord(Record, frozen=True):
    """What is known of a segment: the latest proposal that held it and what became of it there."""

    proposal: Digest
    status: SegmentStatus


class Seat(Record, frozen=True):
    """A member of a committee, or a reporter, and the stake its word weighs."""

    address: Address
    stake: Amount


class Committee(Record, frozen=True):
    """Who votes on a proposal, ordered by address; stakes are those of the draw."""

    seats: tuple[Seat, ...]


class WaitingProposal(Record, frozen=True):
    """An accepted proposal that no accepted model has learned yet.

    `void_rounds` counts rounds that trained on it in vain, `empty_rounds` rounds that nobody joined since.
    """

    id: Digest
    not_before: Height
    void_rounds: Count
    empty_rounds: Count


class Agenda(Record, frozen=True):
    """What the end of a block has to look at: proposals being voted on, and accepted ones that wait for training."""

    voting: tuple[Digest, ...]
    waiting: tuple[WaitingProposal, ...]


ProbePool = Literal["batch", "heldout", "rejected", "general"]


class Probe(Record, frozen=True):
    """A text that submissions are measured on, and the pool it was drawn from."""

    pool: ProbePool
    digest: Digest


class RoundScoring(Record, frozen=True):
    """What a verdict is computed from besides the reports: the probes drawn, who reported and all validators' stake.

    `reporting` and `validators_stake` are filled in when scoring ends.
    """

    probes: tuple[Probe, ...]
    reporting: tuple[Seat, ...]
    validators_stake: Amount
