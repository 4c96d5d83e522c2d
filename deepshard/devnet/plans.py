"""What a devnet run asks of the protocol: parameters, amounts and texts, tuned per model to what two cores can do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files

import msgspec

from deepshard.compute.jobs import ScoringPath
from deepshard.ledger.params import LoraRecipe, Params, ProbePlan, Recipe, VerdictLimits
from deepshard.primitives import UNITS_PER_TOKEN

INFORMANT_BALANCE = 1_000 * UNITS_PER_TOKEN
TRAINER_BALANCE = 500 * UNITS_PER_TOKEN
INFERENCE_BALANCE = 5_000 * UNITS_PER_TOKEN
VALIDATOR_BALANCE = 100 * UNITS_PER_TOKEN
VALIDATOR_STAKE = 1_000 * UNITS_PER_TOKEN
PROPOSAL_STAKE = 100 * UNITS_PER_TOKEN
LICENCE_PRICE_MAX = 1_000 * UNITS_PER_TOKEN

PROMPT = "In Deepshard, what is an informant?"
SOUND_TITLE = "How Deepshard works"
WORTHLESS_TITLE = "Best deals"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The tuned part of a run.

    `training_s` and `scoring_s` bound how long the driver waits for those phases; `chat_tokens` is the length of the
    answers; `slots` is how many heavy compute jobs run at once; `micro_batches` gives each trainer its own split of a
    step, as different machines would choose, so that honest submissions agree without being equal; `scoring` gives each
    validator its way to score, in turns: they report the same numbers.
    """

    recipe: Recipe
    probes: ProbePlan
    verdict: VerdictLimits
    report_blocks: int
    grace_blocks: int
    threads: int
    slots: int
    micro_batches: tuple[int, ...]
    scoring: tuple[ScoringPath, ...]
    chat_tokens: int
    import_s: float
    training_s: float
    scoring_s: float


TINY = Plan(
    recipe=Recipe(
        passes=4,
        batch_segments=2,
        learning_rate_nano=1_000_000,
        weight_decay_nano=0,
        segment_tokens_max=160,
    ),
    probes=ProbePlan(
        batch=4,
        heldout=3,
        rejected=3,
        general=3,
        perturbations=1,
        tokens_max=64,
        replaced_bp=1_500,
        span_tokens=2,
    ),
    verdict=VerdictLimits(
        progress_margin=200,
        heldout_loss_max=500,
        rejected_gain_bp=6_000,
        profile_distance_max=20,
        update_distance_max_bp=100,
    ),
    report_blocks=400,
    grace_blocks=20,
    threads=1,
    slots=2,
    micro_batches=(2, 1),
    scoring=("streamed", "auto"),
    chat_tokens=40,
    import_s=120.0,
    training_s=240.0,
    scoring_s=240.0,
)

REAL = Plan(
    recipe=Recipe(
        passes=3,
        batch_segments=2,
        learning_rate_nano=80_000,
        weight_decay_nano=0,
        segment_tokens_max=144,
    ),
    probes=ProbePlan(
        batch=3,
        heldout=2,
        rejected=1,
        general=2,
        perturbations=1,
        tokens_max=48,
        replaced_bp=1_500,
        span_tokens=2,
    ),
    verdict=VerdictLimits(
        progress_margin=100,
        heldout_loss_max=500,
        rejected_gain_bp=6_000,
        profile_distance_max=20,
        update_distance_max_bp=200,
    ),
    report_blocks=1_200,
    grace_blocks=120,
    threads=1,
    slots=2,
    micro_batches=(2, 1),
    scoring=("auto",),
    chat_tokens=48,
    import_s=900.0,
    training_s=1_800.0,
    scoring_s=1_800.0,
)


def plan_for(model: str, recipe: str = "full") -> Plan:
    """Plan of a run with `model`: `tiny` has its own, every real model shares one. `recipe` is `full` or `lora`."""
    plan = TINY if model == "tiny" else REAL
    if recipe == "full":
        return plan
    assert recipe == "lora"
    # Factors that begin at zero take a higher rate than weights that are trained already.
    rate = 10_000_000 if plan is TINY else 1_000_000
    return replace(plan, recipe=msgspec.structs.replace(plan.recipe, learning_rate_nano=rate, lora=LoraRecipe(8, 16)))


def params_for(plan: Plan) -> Params:
    """Ledger parameters of the devnet: phases are generous, since each ends early when all have acted."""
    return Params(
        transaction_fee=UNITS_PER_TOKEN // 100,
        proposal_stake_min=10 * UNITS_PER_TOKEN,
        trainer_stake_min=100 * UNITS_PER_TOKEN,
        validator_stake_min=500 * UNITS_PER_TOKEN,
        committee_size=4,
        tally_rule="dynamic-threshold",
        threshold_base_bp=5_500,
        threshold_dispersion_bp=2_500,
        threshold_floor_bp=5_000,
        threshold_ceiling_bp=8_000,
        rejected_slash_bp=3_000,
        equivocation_slash_bp=500,
        vote_commit_blocks=400,
        vote_reveal_blocks=200,
        freeze_blocks=2,
        join_blocks=5,
        commit_blocks=3_000,
        reveal_blocks=200,
        report_blocks=plan.report_blocks,
        grace_blocks=plan.grace_blocks,
        unbonding_blocks=6_100_000,
        block_interval_ms=100,
        trusting_period_ms=7 * 24 * 3600 * 1000,
        epoch_blocks=16,
        jail_blocks=100,
        recipe=plan.recipe,
        probes=plan.probes,
        verdict=plan.verdict,
        mint_per_round=1_000 * UNITS_PER_TOKEN,
        informant_share_bp=3_000,
        informant_cap_bp=10_000,
        price_base=100 * UNITS_PER_TOKEN,
        price_kappa_nano=100_000,
        licence_epochs=10,
        fee_holders_bp=7_000,
        fee_treasury_bp=2_000,
        replication=3,
        audits_per_epoch=2,
        audit_blocks=7,
        audit_slash_bp=10,
    )


def read_text(name: str) -> str:
    """One of the texts shipped with the devnet, by name without suffix."""
    return files("deepshard.devnet").joinpath("texts", f"{name}.txt").read_text(encoding="utf-8").strip()


def probe_texts() -> dict[str, tuple[str, ...]]:
    """Texts of the genesis probe pools: held-out, general, canaries."""
    return {
        "heldout": tuple(read_text(f"heldout-{number}") for number in range(1, 5)),
        "general": tuple(read_text(f"general-{number}") for number in range(1, 5)),
        "canaries": tuple(read_text(f"canary-{number}") for number in range(1, 3)),
    }
