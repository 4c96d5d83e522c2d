"""Parameters of the network that the vectors of the ledger are about: phases of a few blocks, epochs of five."""

from __future__ import annotations

from typing import Final

from deepshard.ledger.params import Params, ProbePlan, Recipe, VerdictLimits
from deepshard.primitives import UNITS_PER_TOKEN as TOKEN

PARAMS: Final = Params(
    transaction_fee=TOKEN // 100,
    proposal_stake_min=10 * TOKEN,
    trainer_stake_min=100 * TOKEN,
    validator_stake_min=500 * TOKEN,
    committee_size=4,
    tally_rule="dynamic-threshold",
    threshold_base_bp=5500,
    threshold_dispersion_bp=2500,
    threshold_floor_bp=5000,
    threshold_ceiling_bp=9000,
    rejected_slash_bp=3000,
    equivocation_slash_bp=500,
    vote_commit_blocks=6,
    vote_reveal_blocks=6,
    freeze_blocks=2,
    join_blocks=2,
    commit_blocks=6,
    reveal_blocks=6,
    report_blocks=6,
    grace_blocks=2,
    unbonding_blocks=12,
    epoch_blocks=5,
    jail_blocks=8,
    block_interval_ms=600_000,
    trusting_period_ms=60_000,
    recipe=Recipe(passes=2, batch_segments=2, learning_rate_nano=20_000, weight_decay_nano=0, segment_tokens_max=96),
    probes=ProbePlan(
        batch=2,
        heldout=1,
        rejected=1,
        general=1,
        perturbations=2,
        tokens_max=64,
        replaced_bp=1500,
        span_tokens=2,
    ),
    verdict=VerdictLimits(
        progress_margin=50,
        heldout_loss_max=500,
        rejected_gain_bp=5000,
        profile_distance_max=80,
        update_distance_max_bp=500,
    ),
    mint_per_round=1000 * TOKEN,
    informant_share_bp=4000,
    informant_cap_bp=6000,
    price_base=5 * TOKEN,
    price_kappa_nano=100_000,
    licence_epochs=3,
    fee_holders_bp=6000,
    fee_treasury_bp=2000,
    replication=3,
    audits_per_epoch=0,
    audit_blocks=0,
    audit_slash_bp=0,
)
