"""From a genesis file to the state before the first block."""

from __future__ import annotations

import msgspec

from deepshard.errors import UsageError
from deepshard.ledger import keys
from deepshard.ledger.funds import SUPPLY_MAX
from deepshard.ledger.params import Genesis, LoraRecipe, Params
from deepshard.ledger.records import (
    Account,
    ActiveSet,
    ActiveValidator,
    Agenda,
    Chain,
    ModelVersion,
    Supply,
    ValidatorRecord,
)
from deepshard.ledger.state import Draft, State
from deepshard.ledger.trie import Trie
from deepshard.limits import (
    AUDITS_MAX,
    CLOCK_DRIFT_MS_MAX,
    LORA_LAYERS_MAX,
    LORA_RANK_MAX,
    PROBES_MAX,
    VALIDATORS_MAX,
)
from deepshard.primitives import address_of, tagged_hash


def load_genesis(text: str) -> Genesis:
    """Read the JSON text form (bytes as base64) and check that a network can start from it.

    Raises:
        UsageError: not such a file, or parameters, validators or accounts that contradict each other.
    """
    try:
        genesis = msgspec.json.decode(text, type=Genesis, strict=True)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        hint = ""
        if isinstance(error, msgspec.ValidationError) and str(error).startswith("Expected `array`"):
            hint = " (a file of an earlier version of deepshard, whose networks this one can't join?)"
        raise UsageError(f"the genesis file can't be read: {error}{hint}") from None
    check_genesis(genesis)
    return genesis


def dump_genesis(genesis: Genesis) -> str:
    """JSON text form of a genesis, for `load_genesis`."""
    return msgspec.json.format(msgspec.json.encode(genesis), indent=1).decode() + "\n"


def check_genesis(genesis: Genesis) -> None:
    """Check what the types can't.

    Raises:
        UsageError: says what is wrong.
    """
    _check_params(genesis.params)
    keys_ = [validator.public_key for validator in genesis.validators]
    if not 1 <= len(keys_) <= VALIDATORS_MAX:
        raise UsageError(f"genesis has {len(keys_)} validators, must be 1 to {VALIDATORS_MAX}")
    if len(set(keys_)) != len(keys_):
        raise UsageError("genesis names a validator twice")
    if len({account.address for account in genesis.accounts}) != len(genesis.accounts):
        raise UsageError("genesis names an account twice")
    for validator in genesis.validators:
        if validator.stake < max(1, genesis.params.validator_stake_min):
            raise UsageError(
                f"genesis validator {validator.public_key.hex()[:16]} has stake {validator.stake}, "
                f"the minimum is {max(1, genesis.params.validator_stake_min)}"
            )
    if _issued(genesis) > SUPPLY_MAX:
        raise UsageError(f"genesis issues {_issued(genesis)} units, the limit is {SUPPLY_MAX}")


def _check_params(params: Params) -> None:
    probes, recipe = params.probes, params.recipe
    drawn = probes.batch + probes.heldout + probes.rejected + probes.general
    rules = (
        (params.committee_size >= 1, "committee_size must be at least 1"),
        (params.epoch_blocks >= 1, "epoch_blocks must be at least 1"),
        (params.block_interval_ms >= 1, "block_interval_ms must be at least 1"),
        (params.trusting_period_ms >= 1, "trusting_period_ms must be at least 1"),
        (params.trusting_period_ms <= punishable_ms(params), _too_long_trust(params)),
        (params.unbonding_blocks > params.epoch_blocks, "unbonding_blocks must be above epoch_blocks"),
        (params.jail_blocks >= params.epoch_blocks, "jail_blocks must be at least epoch_blocks"),
        (params.threshold_floor_bp <= params.threshold_ceiling_bp, "threshold_floor_bp is above threshold_ceiling_bp"),
        (params.fee_holders_bp + params.fee_treasury_bp <= 10_000, "fee_holders_bp and fee_treasury_bp exceed 10000"),
        (params.audits_per_epoch <= AUDITS_MAX, f"audits_per_epoch must be at most {AUDITS_MAX}"),
        (fits_audits(params), "audit_blocks must be at least 1, and below half of epoch_blocks"),
        (params.replication >= 1, "replication must be at least 1"),
        (params.mint_per_round <= SUPPLY_MAX, f"mint_per_round exceeds {SUPPLY_MAX}"),
        (params.price_base >= 1, "price_base must be at least 1"),
        (probes.batch >= 1, "probes.batch must be at least 1: without it no progress can be measured"),
        (drawn <= PROBES_MAX, f"probes draws {drawn} texts, the limit is {PROBES_MAX}"),
        (probes.span_tokens >= 1, "probes.span_tokens must be at least 1"),
        (probes.tokens_max >= 2, "probes.tokens_max must be at least 2"),
        (recipe.passes >= 1, "recipe.passes must be at least 1"),
        (recipe.batch_segments >= 1, "recipe.batch_segments must be at least 1"),
        (recipe.segment_tokens_max >= 2, "recipe.segment_tokens_max must be at least 2"),
    )
    wrong = [message for holds, message in rules if not holds]
    phases = ("vote_commit", "vote_reveal", "join", "commit", "reveal", "report")
    wrong += _wrong_lora(recipe.lora) if recipe.lora else []
    wrong += [f"{name}_blocks must be at least 1" for name in phases if getattr(params, f"{name}_blocks") < 1]
    if wrong:
        raise UsageError("genesis parameters are inconsistent: " + "; ".join(wrong))


def _wrong_lora(lora: LoraRecipe) -> list[str]:
    rules = (
        (1 <= lora.rank <= LORA_RANK_MAX, f"recipe.lora.rank is {lora.rank}, must be 1 to {LORA_RANK_MAX}"),
        (lora.alpha >= 1, "recipe.lora.alpha must be at least 1"),
        (len(lora.layers) <= LORA_LAYERS_MAX, f"recipe.lora.layers are more than {LORA_LAYERS_MAX}"),
        (len(set(lora.layers)) == len(lora.layers), "recipe.lora.layers names a layer twice"),
    )
    return [message for holds, message in rules if not holds]


def _too_long_trust(params: Params) -> str:
    return (
        f"trusting_period_ms is {params.trusting_period_ms}, and must be at most {punishable_ms(params)}: "
        "(unbonding_blocks - epoch_blocks) * block_interval_ms is the least time in which who signed a header can "
        f"withdraw its stake, and {2 * CLOCK_DRIFT_MS_MAX} ms of it are for clocks"
    )


def punishable_ms(params: Params) -> int:
    """For how long after the time of a header the stake behind it is there at least, by anybody's clock; see 10.5/7."""
    return (params.unbonding_blocks - params.epoch_blocks) * params.block_interval_ms - 2 * CLOCK_DRIFT_MS_MAX


def fits_audits(params: Params) -> bool:
    """Whether an audit that opens in the middle of an epoch is closed before the epoch ends."""
    opened = params.epoch_blocks // 2
    return params.audits_per_epoch == 0 or opened < opened + params.audit_blocks < params.epoch_blocks


def _issued(genesis: Genesis) -> int:
    balances = sum(account.balance for account in genesis.accounts)
    return balances + sum(validator.stake for validator in genesis.validators)


def genesis_state(genesis: Genesis) -> State:
    """The state at height 0.

    Raises:
        UsageError: a network can't start from this genesis.
    """
    check_genesis(genesis)
    changes: dict[bytes, object] = {
        keys.CHAIN: Chain(0, tagged_hash("genesis beacon", genesis.hash()), 0, 0, 0),
        keys.SUPPLY: Supply(_issued(genesis), 0, 0, 0),
        keys.PARAMS: genesis.params,
        keys.AGENDA: Agenda((), ()),
        keys.model_key(0): _base_model(genesis),
    }
    active = []
    for validator in genesis.validators:
        address = address_of(validator.public_key)
        record = ValidatorRecord(validator.public_key, validator.stake, validator.onion_tip)
        changes[keys.validator_key(address)] = record
        active.append(ActiveValidator(address, validator.public_key, validator.stake))
    changes[keys.ACTIVE] = ActiveSet(tuple(sorted(active, key=lambda entry: entry.address)))
    changes[keys.epoch_key(0)] = changes[keys.ACTIVE]
    for account in genesis.accounts:
        changes[keys.account_key(account.address)] = Account(balance=account.balance)
    draft = Draft(State(Trie()).changed(changes))
    pools = (("heldout", genesis.heldout), ("rejected", genesis.canaries), ("general", genesis.general))
    for name, digests in (*pools, ("canary", genesis.canaries)):
        for digest in digests:
            draft.add_to_pool(name, digest)
    return draft.finish()


def _base_model(genesis: Genesis) -> ModelVersion:
    return ModelVersion(
        version=0,
        manifest=genesis.manifest,
        weights_root=genesis.weights_root,
        chunks_root=genesis.chunks_root,
        shard_count=genesis.shard_count,
        height=0,
        value=0,
    )
