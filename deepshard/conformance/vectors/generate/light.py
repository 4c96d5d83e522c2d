"""`light.json`: steps of a light client, header by header and by skips (chapter 10.5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec.structs import replace

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, refuse
from deepshard.conformance.vectors.generate import forms
from deepshard.conformance.vectors.generate.chain import GENESIS, NOW_MS, PERIOD_MS, START_MS, light_block, set_of
from deepshard.conformance.vectors.generate.network import CHAIN, KEYS, certificate, members, signed_header
from deepshard.consensus.light import LightBlock, LightState, trust_genesis
from deepshard.consensus.types import CommitSignature
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import encode
from deepshard.limits import CERTIFICATE_BYTES_MAX, CLOCK_DRIFT_MS_MAX, HEADER_BYTES_MAX, VALIDATOR_SET_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST

_PARTS, _HEADER, _CERTIFICATE, _NEXT, _SKIP, _LATER, _EXPIRY, _TRUST = (
    ("10.5/1",),
    ("10.5/2",),
    ("10.5/3",),
    ("10.5/4",),
    ("10.5/5",),
    ("10.5/6",),
    ("10.5/7",),
    ("10.5/8",),
)
_BAD: Final = "InvalidLightBlock"


def make() -> Json:
    """The file."""
    return document(
        "light",
        "Steps of a light client (chapter 10.5): what it trusts, the light block it is given, what it trusts then.",
        [*_sequential(), *_skips(), *_expired(), *_bad_next(), *_bad_skips(), *_parts()],
    )


def _trusted(height: int) -> LightState:
    """What a client trusts that has verified this height, 0 for genesis."""
    return trust_genesis(CHAIN, GENESIS, START_MS, set_of(1)) if height == 0 else _after(light_block(height))


def _after(block: LightBlock) -> LightState:
    header = block.header
    trust = (header.height, header.block_id(), header.time_ms, block.validators, header.next_validators_hash)
    return LightState(CHAIN, *trust, None)


def _shown(state: LightState) -> Json:
    names = ("chain_id", "height", "block_id", "time_ms", "validators", "next_validators_hash")
    return {name: getattr(state, name) for name in names}


def _step(rule: str, trusted: LightState, block: LightBlock, *, now_ms: int = NOW_MS) -> Json:
    parts = {"header": block.header, "certificate": block.certificate, "validators": block.validators}
    encoded = {name: encode(part) for name, part in parts.items()}
    times = {"now_ms": now_ms, "trusting_period_ms": PERIOD_MS}
    return {"rule": rule, "trusted": _shown(trusted), **times, **encoded}


def _sequential() -> Iterator[Json]:
    clauses = (*_HEADER, *_CERTIFICATE, *_NEXT, *_TRUST)
    for height in range(1, 5):
        block = light_block(height)
        fields = _step("sequential", _trusted(height - 1), block)
        yield accept(f"from height {height - 1} to {height}", clauses, **fields, then=_shown(_after(block)))
    first = light_block(1)
    early = _step("sequential", _trusted(0), first, now_ms=first.header.time_ms - CLOCK_DRIFT_MS_MAX)
    yield accept("a time as far ahead of the clock as may be", _HEADER, **early, then=_shown(_after(first)))


def _skips() -> Iterator[Json]:
    for low, high in ((0, 2), (0, 3), (1, 4), (3, 6), (4, 7)):
        block = light_block(high)
        fields = _step("skipping", _trusted(low), block)
        clauses = (*_SKIP, *_TRUST)
        yield accept(f"skip from height {low} to {high}", clauses, **fields, then=_shown(_after(block)))
    fields = _step("skipping", _trusted(0), light_block(8))
    yield refuse("skip to a set that shares nobody", _SKIP, "InsufficientTrust", **fields)
    exact = _signed_by(6, members(0, 0, 1, 1, 1, 1, 1))
    trusted = replace(_trusted(1), validators=members(10, 10, 10), next_validators_hash=set_of(2).hash())
    why = "exactly a third of the trusted power signed"
    yield refuse("skip with a third", _SKIP, "InsufficientTrust", why=why, **_step("skipping", trusted, exact))
    more = replace(trusted, validators=members(10, 10, 11))
    note = "power 11 of 31 is more than a third"
    fields = {**_step("skipping", more, exact), "then": _shown(_after(exact))}
    yield accept("skip with more than a third", _SKIP, note=note, **fields)
    weight = replace(trusted, validators=members(1, 1, 1, 100))
    heavy = _signed_by(6, members(0, 1, 1, 0, 1, 1, 1))
    why = "power is counted by the trusted set: 2 of 103"
    yield refuse("skip without the heavy one", _SKIP, "InsufficientTrust", why=why, **_step("skipping", weight, heavy))


def _signed_by(height: int, validators: ValidatorSet, **changes: Any) -> LightBlock:  # noqa: ANN401
    """A header of this height with validators that all sign it, whatever the chain says."""
    header = replace(light_block(height).header, validators_hash=validators.hash(), **changes)
    return LightBlock(header, signed_header(header, validators), validators)


def _expired() -> Iterator[Json]:
    block = light_block(1)
    last_ms = START_MS + PERIOD_MS
    fields = _step("sequential", _trusted(0), block, now_ms=last_ms - 1)
    yield accept("the last moment of trust", _EXPIRY, **fields, then=_shown(_after(block)))
    for rule, height in (("sequential", 1), ("skipping", 3)):
        fields = _step(rule, _trusted(0), light_block(height), now_ms=last_ms)
        yield refuse(f"{rule}: trust has expired", _EXPIRY, "TrustExpired", **fields)


def _bad_next() -> Iterator[Json]:
    good, own = light_block(1), set_of(1)
    forged: list[tuple[str, tuple[str, ...], LightBlock]] = [
        ("not the next height", _NEXT, light_block(2)),
        ("another parent", _NEXT, _signed_by(1, own, parent_id=ZERO_DIGEST)),
        ("other validators than announced", _NEXT, _signed_by(1, members(0, 0, 0, 0, 0, 1, 1, 1, 1))),
        ("another chain", _HEADER, _signed_by(1, own, chain_id="other-chain")),
        ("another version", _HEADER, _signed_by(1, own, version=2)),
        ("a time too far ahead", _HEADER, _signed_by(1, own, time_ms=NOW_MS + CLOCK_DRIFT_MS_MAX + 1)),
        ("the trusted time", _HEADER, _signed_by(1, own, time_ms=START_MS)),
        ("validators that aren't its own", _HEADER, replace(good, validators=set_of(6))),
        ("too little power", _CERTIFICATE, replace(good, certificate=signed_header(good.header, own, 2))),
        ("a certificate of another block", _CERTIFICATE, replace(good, certificate=light_block(2).certificate)),
        ("a header changed after it was signed", _CERTIFICATE, _changed(good)),
        ("signatures of zeros", _CERTIFICATE, _unsigned(good)),
        ("signed by strangers", _CERTIFICATE, _by_strangers(good)),
    ]
    for name, clauses, block in forged:
        yield refuse(f"sequential: {name}", clauses, _BAD, **_step("sequential", _trusted(0), block))


def _changed(good: LightBlock) -> LightBlock:
    return replace(good, header=replace(good.header, state_root=digest_of("forged state")))


def _unsigned(good: LightBlock) -> LightBlock:
    blank = tuple(CommitSignature(entry.validator, bytes(64)) for entry in good.certificate.signatures)
    return replace(good, certificate=replace(good.certificate, signatures=blank))


def _by_strangers(good: LightBlock) -> LightBlock:
    forged = certificate(KEYS[5:9], height=good.header.height, block_id=good.header.block_id())
    return replace(good, certificate=forged)


def _bad_skips() -> Iterator[Json]:
    trusted = _trusted(3)
    good, own = light_block(6), set_of(6)
    # More than a third of the trusted set signs each of these, so that nothing but the fault is in the way.
    known = set_of(3)
    forged: list[tuple[str, tuple[str, ...], LightBlock]] = [
        ("the trusted height", _LATER, light_block(3)),
        ("an earlier height", _LATER, light_block(2)),
        ("another chain", _HEADER, _signed_by(6, known, chain_id="other-chain")),
        ("the trusted time", _HEADER, _signed_by(6, known, time_ms=trusted.time_ms)),
        ("a time too far ahead", _HEADER, _signed_by(6, known, time_ms=NOW_MS + CLOCK_DRIFT_MS_MAX + 1)),
        ("validators that aren't its own", _HEADER, replace(good, validators=known)),
        ("too little power of its own", _CERTIFICATE, _weak_skip()),
        ("a header changed after it was signed", _CERTIFICATE, _changed(good)),
        ("signatures of zeros", _CERTIFICATE, _unsigned(good)),
    ]
    for name, clauses, block in forged:
        yield refuse(f"skipping: {name}", clauses, _BAD, **_step("skipping", trusted, block))
    claimed = LightBlock(good.header, certificate(KEYS[5:9], height=6, block_id=good.header.block_id()), own)
    yield refuse(
        "skipping: nobody who is trusted signs", _SKIP, "InsufficientTrust", **_step("skipping", trusted, claimed)
    )


def _weak_skip() -> LightBlock:
    """Enough of the trusted ones sign, but not enough of its own."""
    full = _signed_by(6, set_of(3))
    return replace(full, certificate=signed_header(full.header, set_of(3), 2))


def _parts() -> Iterator[Json]:
    good = _step("sequential", _trusted(0), light_block(1))
    for part, bound in (
        ("header", HEADER_BYTES_MAX),
        ("certificate", CERTIFICATE_BYTES_MAX),
        ("validators", VALIDATOR_SET_BYTES_MAX),
    ):
        yield refuse(f"an oversized {part}", _PARTS, "OversizedMessage", **{**good, part: bytes(bound + 1)})
        yield refuse(f"no {part}", _PARTS, "MalformedMessage", **{**good, part: b""})
        yield refuse(f"a byte behind the {part}", _PARTS, "MalformedMessage", **{**good, part: good[part] + b"\x00"})
    backwards = [[[entry.address, entry.public_key, entry.power] for entry in set_of(1).validators[::-1]]]
    yield refuse(
        "validators out of order",
        (*_PARTS, "10.1/1"),
        "MalformedMessage",
        **{**good, "validators": forms.encoded(backwards)},
    )
