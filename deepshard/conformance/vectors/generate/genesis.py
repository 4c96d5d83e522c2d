"""`genesis.json`: genesis hash, first state and validators, and what no network can start from (chapter 10.7)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Final

from msgspec.structs import replace

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, refuse
from deepshard.conformance.vectors.generate import forms
from deepshard.conformance.vectors.generate.ledger import BALANCE, TOKEN, VALIDATORS, genesis
from deepshard.conformance.vectors.generate.proofs import root_of
from deepshard.encoding import Record
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator, LoraRecipe, Params
from deepshard.primitives import address_of, tagged_hash

_GOOD: Final = ("10.7/1", "10.7/2", "10.7/5", "10.7/6", "11.8/4", "11.8/5")
_TEXT, _RULES, _PARAMS = ("10.7/2",), ("10.7/3",), ("10.7/3", "10.7/4")
_BAD: Final = "UsageError"
_GENESIS: Final = genesis()


def make() -> Json:
    """The file."""
    return document(
        "genesis",
        "Genesis (chapter 10.7): its hash, the state and validators that follow, and what no network can start from.",
        [*_starts(), *_texts(), *_contents(), *_parameters()],
    )


def _values(value: Any) -> Any:  # noqa: ANN401
    """Nested lists of what a record holds."""
    if isinstance(value, Record):
        return [_values(getattr(value, name)) for name in value.__struct_fields__]
    return [_values(one) for one in value] if isinstance(value, tuple) else value


def _json(value: Any) -> Any:  # noqa: ANN401
    """The same with bytes as base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return [_json(one) for one in value] if isinstance(value, list) else value


def _text(given: Genesis) -> str:
    return json.dumps(_json(_values(given)), separators=(",", ":"))


def _entries(given: Genesis) -> list[tuple[bytes, bytes]]:
    """The table of 10.7/6."""
    hash_ = tagged_hash("genesis", forms.encoded(_values(given)))
    issued = sum(one.stake for one in given.validators) + sum(one.balance for one in given.accounts)
    active = sorted([address_of(one.public_key), one.public_key, one.stake] for one in given.validators)
    entries: dict[bytes, Any] = {
        b"chain": [0, tagged_hash("genesis beacon", hash_), 0, 0, 0],
        b"supply": [issued, 0, 0, 0],
        b"params": _values(given.params),
        b"agenda": [[], []],
        b"model/" + bytes(8): [
            0,
            given.manifest,
            given.weights_root,
            given.chunks_root,
            given.shard_count,
            0,
            0,
        ],
        b"active": [active],
        b"epoch/" + bytes(8): [active],
    }
    for one in given.validators:
        entries[b"validator/" + address_of(one.public_key)] = [one.public_key, one.stake, one.onion_tip]
    for account in given.accounts:
        entries[b"account/" + account.address] = [0, account.balance, 0, []]
    pools = {
        b"heldout": given.heldout,
        b"rejected": given.canaries,
        b"general": given.general,
        b"canary": given.canaries,
    }
    for name, digests in pools.items():
        distinct = list(dict.fromkeys(digests))
        for index, digest in enumerate(distinct):
            entries[b"pool/" + name + b"/" + index.to_bytes(8, "big")] = digest
            entries[b"pool-member/" + name + b"/" + digest] = []
        if distinct:
            entries[b"pool-size/" + name] = len(distinct)
    return sorted((key, forms.encoded(value)) for key, value in entries.items())


def _starts() -> Iterator[Json]:
    twice = (digest_of("text"), digest_of("other"), digest_of("text"))
    rich = GenesisAccount(digest_of("rich")[:20], 2**61 - 4000 * TOKEN)
    for name, given in (
        ("four validators and some accounts", _GENESIS),
        ("one validator and nothing else", _bare(validators=_GENESIS.validators[:1])),
        ("a text twice in a pool", replace(_GENESIS, heldout=twice, canaries=twice[:2])),
        ("as much money as there may be", _bare(accounts=(rich,))),
        ("the longest chain id", _bare(chain_id="0" * 50, time_ms=2**62)),
        ("a LoRA recipe", _with({"recipe.lora": LoraRecipe(128, 1, ("q_proj", "mlp.up_proj"))})),
    ):
        entries = _entries(given)
        encoded = forms.encoded(_values(given))
        active = next(value for key, value in entries if key == b"active")
        fields: Json = {"text": _text(given), "encoded": encoded, "hash": tagged_hash("genesis", encoded)}
        fields |= {"entries": entries, "state_root": root_of(entries)}
        fields |= {"validators_hash": tagged_hash("validator set", active)}
        yield accept(f"start: {name}", _GOOD, **fields)


def _bare(**changes: Any) -> Genesis:  # noqa: ANN401
    """A genesis without accounts and texts."""
    return replace(_GENESIS, **{"accounts": (), "heldout": (), "general": (), "canaries": (), **changes})


def _bad(name: str, clauses: tuple[str, ...], given: Genesis) -> Json:
    return refuse(name, clauses, _BAD, text=_text(given))


def _texts() -> Iterator[Json]:
    good = _text(_bare())
    for name, text in (
        ("nothing", ""),
        ("not JSON", good[:-1]),
        ("an object", "{}"),
        ("a field too few", good.replace('"vector-chain",', "", 1)),
        ("a field too many", good[:-1] + ",0]"),
        (
            "a number with a fraction",
            good.replace('"vector-chain",0', '"vector-chain",0.5'),
        ),
        ("a number as text", good.replace('"vector-chain",0', '"vector-chain","0"')),
        ("bytes that aren't base64", good.replace("=", "!", 1)),
    ):
        yield refuse(f"text: {name}", _TEXT, _BAD, text=text)
    for chain_id in ("", "Chain", "-chain", "a b", "a\n", "0" * 51, "\xe9"):
        name = f"chain id {chain_id!r}" if len(chain_id) < 9 else "a chain id of 51 characters"
        yield _bad(name, _RULES, _bare(chain_id=chain_id))


def _contents() -> Iterator[Json]:
    first, *others = _GENESIS.validators
    poor = replace(first, stake=_GENESIS.params.validator_stake_min - 1)
    many = tuple(GenesisValidator(digest_of(f"key {number}"), 1000 * TOKEN, digest_of("tip")) for number in range(257))
    account = GenesisAccount(VALIDATORS[0].address, BALANCE)
    rich = GenesisAccount(digest_of("rich")[:20], 2**61 - 4000 * TOKEN + 1)
    idle = (replace(first, stake=0),)
    for name, given in (
        ("no validators", _bare(validators=())),
        ("257 validators", _bare(validators=many)),
        ("a validator twice", _bare(validators=(first, first, *others))),
        ("an account twice", _bare(accounts=(account, account))),
        ("a stake below the minimum", _bare(validators=(poor, *others))),
        ("too much money", _bare(accounts=(rich,))),
        (
            "a stake of 0 where the minimum is 0",
            _with({"validator_stake_min": 0}, validators=idle),
        ),
    ):
        yield _bad(name, _RULES, given)


def _with(params: Json, **changes: Any) -> Genesis:  # noqa: ANN401
    """A bare genesis with other parameters; those of a part are named with a dot."""
    changed: Params = _GENESIS.params
    for name, value in params.items():
        part, _, field = name.partition(".")
        changed = replace(changed, **{part: replace(getattr(changed, part), **{field: value}) if field else value})
    return _bare(params=changed, **changes)


def _parameters() -> Iterator[Json]:
    at_least = dict.fromkeys(("committee_size", "epoch_blocks", "replication", "price_base"), 0)
    at_least |= {f"{phase}_blocks": 0 for phase in ("vote_commit", "vote_reveal", "join", "commit", "reveal", "report")}
    at_least |= {"probes.batch": 0, "probes.span_tokens": 0, "recipe.passes": 0, "recipe.batch_segments": 0}
    at_least |= {"probes.tokens_max": 1, "recipe.segment_tokens_max": 1}
    lora = LoraRecipe(8, 16, ("q_proj", "mlp.up_proj"))
    yield from (
        _bad(f"recipe.lora: {name}", _PARAMS, _with({"recipe.lora": replace(lora, **changes)}))
        for name, changes in (
            ("rank = 0", {"rank": 0}),
            ("rank = 129", {"rank": 129}),
            ("alpha = 0", {"alpha": 0}),
            ("65 layers", {"layers": tuple(f"layer-{number}" for number in range(65))}),
            ("a layer twice", {"layers": ("q_proj", "q_proj")}),
            ("a layer without a name", {"layers": ("",)}),
            ("a layer called 'a b'", {"layers": ("a b",)}),
        )
    )
    for name, value in at_least.items():
        yield _bad(f"{name} = {value}", _PARAMS, _with({name: value}))
    for params in (
        {"unbonding_blocks": 5, "epoch_blocks": 5},
        {"block_interval_ms": 0},
        {"trusting_period_ms": 0},
        {"trusting_period_ms": 7 * 600_000 - 20_000 + 1},
        {"jail_blocks": 4, "epoch_blocks": 5},
        {"threshold_floor_bp": 5001, "threshold_ceiling_bp": 5000},
        {"fee_holders_bp": 6000, "fee_treasury_bp": 4001},
        {"mint_per_round": 2**61 + 1},
        {"probes.batch": 254},
    ):
        yield _bad(", ".join(f"{name} = {value}" for name, value in params.items()), _PARAMS, _with(params))
