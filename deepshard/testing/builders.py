"""Values to build test networks from."""

from __future__ import annotations

from deepshard.ledger.params import Params, ProbePlan, Recipe, VerdictLimits
from deepshard.primitives import UNITS_PER_TOKEN as TOKEN

SMALL_PARAMS = Params(
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
    grace_blocks=6,
    unbonding_blocks=400_000,
    epoch_blocks=5,
    block_interval_ms=10,
    trusting_period_ms=3_600_000,
    jail_blocks=8,
    recipe=Recipe(2, 2, 20_000, 0, 96),
    probes=ProbePlan(4, 2, 2, 2, 2, 64, 1500, 2),
    verdict=VerdictLimits(50, 500, 5000, 80, 500),
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
"""A network whose phases take a few blocks each and whose epochs are five blocks long."""
