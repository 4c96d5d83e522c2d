"""Genesis: the parameters, accounts, validators and base model a network starts from."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from deepshard.chunk_tree import ShardCount
from deepshard.encoding import Record, encode
from deepshard.primitives import Address, Amount, BasisPoints, Count, Digest, Height, Millinats, PublicKey, tagged_hash

TallyRule = Literal["dynamic-threshold", "quadratic", "surprisingly-popular"]
ChainId = Annotated[str, msgspec.Meta(min_length=1, max_length=50, pattern=r"^[a-z0-9][a-z0-9-]*\Z")]
LayerName = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_.\-]+\Z")]


class LoraRecipe(Record, frozen=True):
    """Train factors of low rank beside the frozen weights (arXiv 2106.09685), and merge them at the end.

    The update of a matrix is `alpha / rank * B A`. `layers` are names of linear layers, each one's last parts, such as
    `q_proj` or `mlp.up_proj`; none means every linear layer that is part of a numbered one: all projections of
    attention and of the MLPs.
    """

    rank: Count
    alpha: Count
    layers: tuple[LayerName, ...] = ()


class Recipe(Record, frozen=True):
    """How every trainer of a round trains: with AdamW in fp32 over the stored weights, rounded at the end.

    `learning_rate_nano` is the rate times 10^9; a step takes `batch_segments` segments in the round's data order; the
    order repeats with a fresh permutation for each of `passes` passes. Segments are cut to `segment_tokens_max`.
    `lora` says what is trained; without it that is all of the weights.
    """

    passes: Count
    batch_segments: Count
    learning_rate_nano: Count
    weight_decay_nano: Count
    segment_tokens_max: Count
    lora: LoraRecipe | None = None


class ProbePlan(Record, frozen=True):
    """How many probe texts of each pool are drawn, and how each is perturbed."""

    batch: Count
    heldout: Count
    rejected: Count
    general: Count
    perturbations: Count
    tokens_max: Count
    replaced_bp: BasisPoints
    """Share of a probe's tokens that a perturbation replaces."""
    span_tokens: Count


class VerdictLimits(Record, frozen=True):
    """Bounds of the verdict's tests; see `ledger.verdict`."""

    progress_margin: Millinats
    """Least gain on the batch beyond the gain on held-out text."""
    heldout_loss_max: Millinats
    """Largest tolerated loss on held-out and general text."""
    rejected_gain_bp: BasisPoints
    """Largest tolerated excess gain on rejected text and canaries, as a share of the excess gain on the batch."""
    profile_distance_max: Millinats
    """Largest root-mean-square distance between two similar curvature profiles."""
    update_distance_max_bp: BasisPoints
    """Largest squared sketch distance of two similar updates, as a share of their larger squared norm."""


class Params(Record, frozen=True):
    """Consensus parameters; all integers, amounts in base units, delays in blocks."""

    transaction_fee: Amount
    proposal_stake_min: Amount
    trainer_stake_min: Amount
    validator_stake_min: Amount
    committee_size: Count
    tally_rule: TallyRule
    threshold_base_bp: BasisPoints
    threshold_dispersion_bp: BasisPoints
    threshold_floor_bp: BasisPoints
    threshold_ceiling_bp: BasisPoints
    rejected_slash_bp: BasisPoints
    equivocation_slash_bp: BasisPoints
    """Share of bonded and unbonding stake that a convicted validator loses."""
    vote_commit_blocks: Count
    vote_reveal_blocks: Count
    freeze_blocks: Count
    """A round opens this many blocks after the oldest accepted, untrained proposal was decided."""
    join_blocks: Count
    commit_blocks: Count
    reveal_blocks: Count
    report_blocks: Count
    grace_blocks: Count
    """How long the others have, once validators with over two thirds of the stake have voted, opened or reported."""
    unbonding_blocks: Count
    epoch_blocks: Count
    """Validator-set changes take effect at heights divisible by this."""
    jail_blocks: Count
    """A convicted validator may ask to be let back in after so many blocks."""
    block_interval_ms: Count
    """By how much the time of a block is above its parent's at least; so blocks bound time from below."""
    trusting_period_ms: Count
    """How old a header may be that light clients verify later ones from: its signers must still have stake to lose."""
    recipe: Recipe
    probes: ProbePlan
    verdict: VerdictLimits
    mint_per_round: Amount
    informant_share_bp: BasisPoints
    """Share of a round's minted tokens that goes to informants; the rest goes to honest trainers."""
    informant_cap_bp: BasisPoints
    """Largest share of the informants' part that one informant can get."""
    price_base: Amount
    price_kappa_nano: Count
    """Exponent per millinat of accumulated value, times 10^9."""
    licence_epochs: Count
    fee_holders_bp: BasisPoints
    fee_treasury_bp: BasisPoints
    """What is left of a licence fee after holders and treasury is burned."""
    replication: Count
    audits_per_epoch: Count
    """Shards that are drawn in each epoch, for their holders to show that they have them; 0: none."""
    audit_blocks: Count
    """In so many blocks they have to answer."""
    audit_slash_bp: BasisPoints
    """Share of bonded and unbonding stake that a validator loses which answers none of what it is asked in an epoch."""


class GenesisValidator(Record, frozen=True):
    """A validator at height 0, with its bonded stake and the tip of its hash onion."""

    public_key: PublicKey
    stake: Amount
    onion_tip: Digest


class GenesisAccount(Record, frozen=True):
    """An account and its balance at height 0."""

    address: Address
    balance: Amount


class Genesis(Record, frozen=True):
    """Everything two nodes must share to be on one network. The text form is JSON (bytes as base64)."""

    chain_id: ChainId
    time_ms: Height
    params: Params
    validators: tuple[GenesisValidator, ...]
    accounts: tuple[GenesisAccount, ...]
    manifest: Digest
    """Content address of the base model's manifest."""
    weights_root: Digest
    chunks_root: Digest
    """Of the tree over what holders of each shard keep (`chunk_tree`), which has `shard_count` leaves."""
    shard_count: ShardCount
    heldout: tuple[Digest, ...]
    """Content addresses of the held-out probe texts, stored as blobs by every validator."""
    general: tuple[Digest, ...]
    canaries: tuple[Digest, ...]

    def hash(self) -> bytes:
        """Identifier of the network, exchanged in the handshake."""
        return tagged_hash("genesis", encode(self))
