"""`certificates.json`: validator sets and commit certificates (chapters 10.1 and 10.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from deepshard.ballots import VoteKind
from deepshard.conformance.vectors.document import Json, accept, document, refuse
from deepshard.conformance.vectors.generate import forms
from deepshard.conformance.vectors.generate.network import BLOCK, CHAIN, KEYS, OTHER, certificate, members
from deepshard.consensus.certificates import certificate_hash
from deepshard.consensus.types import CommitCertificate, CommitSignature, Validator
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import encode
from deepshard.primitives import ZERO_DIGEST, address_of

_SETS, _HASH, _QUORUM, _CERTIFICATE = ("10.1/1",), ("10.1/2",), ("10.1/3",), ("10.2/4",)
_ABOUT, _SIGNERS, _POWER, _SIGNED = ("10.4/1",), ("10.4/2",), ("10.4/3", "10.1/3"), ("10.4/4",)
_BAD: Final = "InvalidCertificate"
_HEIGHT: Final = 5
_EVEN: Final = members(1, 1, 1, 1)
_WEIGHTED: Final = members(1, 1, 1, 6)


def make() -> Json:
    """The file."""
    return document(
        "certificates",
        "Validator sets and commit certificates (chapters 10.1 and 10.4).",
        [*_sets(), *_bad_sets(), *_thresholds(), *_certificates(), *_weak(), *_forged()],
        chain_id=CHAIN,
    )


def _sets() -> Iterator[Json]:
    for powers in ((1,), (10, 20, 30, 40), (2**61, 2**61 - 1, 1), (1,) * 9):
        validators = members(*powers)
        fields = {"encoded": encode(validators), "validators": validators.validators, "hash": validators.hash()}
        name = f"a set with powers {list(powers)}"
        yield accept(name, (*_SETS, *_HASH), operation="set", total_power=sum(powers), **fields)


def _bad_sets() -> Iterator[Json]:
    good = _EVEN.validators
    first, second = good[:2]
    wrong: dict[str, tuple[Validator, ...]] = {
        "empty": (),
        "out of order": (second, first),
        "one of them twice": (first, first),
        "an address that isn't its key's": (replace(first, public_key=second.public_key),),
        "a power of 0": (replace(first, power=0), second),
        "a total power of 2^62 + 1": (replace(first, power=2**62), second),
    }
    for name, entries in wrong.items():
        data = forms.encoded([[[entry.address, entry.public_key, entry.power] for entry in entries]])
        yield refuse(f"set: {name}", _SETS, "MalformedMessage", operation="set", encoded=data)
    many = sorted((address_of(bytes([n // 256, n % 256]) * 16), bytes([n // 256, n % 256]) * 16) for n in range(257))
    data = forms.encoded([[[address, public, 1] for address, public in many]])
    yield refuse("set: 257 validators", _SETS, "MalformedMessage", operation="set", encoded=data)


def _thresholds() -> Iterator[Json]:
    for total in (1, 2, 3, 4, 7, 9, 100, 2**62):
        quorum, honest = 2 * total // 3 + 1, total // 3 + 1
        fields = {"total_power": total, "least_quorum": quorum, "least_honest": honest}
        yield accept(f"thresholds of a total power of {total}", _QUORUM, operation="thresholds", **fields)


def _fields(
    validators: ValidatorSet, given: CommitCertificate, *, block_id: bytes = BLOCK, height: int = _HEIGHT
) -> Json:
    listed = {"validators": validators.validators, "height": height, "block_id": block_id}
    shown = {"certificate": given, "encoded": encode(given), "hash": certificate_hash(given)}
    return {"operation": "certificate", **listed, **shown}


def _by(*places: int, height: int = _HEIGHT, block_id: bytes = BLOCK, round_: int = 1) -> CommitCertificate:
    return certificate([KEYS[place] for place in places], height=height, block_id=block_id, round_=round_)


def _certificates() -> Iterator[Json]:
    for name, validators, places in (
        ("three of four", _EVEN, (0, 1, 3)),
        ("all of four", _EVEN, (0, 1, 2, 3)),
        ("power 7 of 9 in two hands", _WEIGHTED, (2, 3)),
        ("the only one", members(5), (0,)),
    ):
        yield accept(name, (*_POWER, *_SIGNED, *_CERTIFICATE), **_fields(validators, _by(*places)))
    yield accept("three of four in round 0", _SIGNED, **_fields(_EVEN, _by(0, 1, 2, round_=0)))
    late = _by(0, 1, 2, round_=2**31 - 1)
    yield accept("three of four in the last round", _SIGNED, **_fields(_EVEN, late))


def _weak() -> Iterator[Json]:
    for name, validators, places in (
        ("two of four", _EVEN, (0, 1)),
        ("exactly two thirds: two of three", members(1, 1, 1), (0, 1)),
        ("exactly two thirds: power 6 of 9 in one hand", _WEIGHTED, (3,)),
        ("three of four with power 3 of 9", _WEIGHTED, (0, 1, 2)),
        ("nobody", _EVEN, ()),
    ):
        yield refuse(name, _POWER, "InsufficientPower", **_fields(validators, _by(*places)))


def _forged() -> Iterator[Json]:
    good = _by(0, 1, 3)
    yield refuse("another height", _ABOUT, _BAD, **_fields(_EVEN, _by(0, 1, 3, height=6)))
    yield refuse("another block", _ABOUT, _BAD, **_fields(_EVEN, _by(0, 1, 3, block_id=OTHER)))
    nil = _by(0, 1, 3, block_id=ZERO_DIGEST)
    yield refuse("a certificate for nil", _ABOUT, _BAD, **_fields(_EVEN, nil, block_id=ZERO_DIGEST))
    yield refuse("signers out of order", _SIGNERS, _BAD, **_fields(_EVEN, _by(1, 0, 3)))
    yield refuse("a signer twice", _SIGNERS, _BAD, **_fields(_EVEN, _by(0, 1, 1, 3)))
    yield refuse("a signer twice makes no quorum", _SIGNERS, _BAD, **_fields(_EVEN, _by(0, 1, 1)))
    yield refuse("a signer outside of the set", _SIGNERS, _BAD, **_fields(_EVEN, _by(0, 1, 2, 8)))
    yield refuse("signers of another set", _SIGNERS, _BAD, **_fields(members(0, 0, 0, 0, 1, 1, 1), _by(0, 1, 2)))
    yield refuse("another round than was signed", _SIGNED, _BAD, **_fields(_EVEN, replace(good, round=2)))
    elsewhere = certificate(KEYS[:3], height=_HEIGHT, block_id=BLOCK, chain="other-chain")
    yield refuse("signed for another chain", _SIGNED, _BAD, **_fields(_EVEN, elsewhere))
    prevotes = certificate(KEYS[:3], height=_HEIGHT, block_id=BLOCK, kind=VoteKind.PREVOTE)
    yield refuse("prevotes", _SIGNED, _BAD, **_fields(_EVEN, prevotes))
    for place in range(4):
        entries = list(_by(0, 1, 2, 3).signatures)
        entries[place] = CommitSignature(entries[place].validator, bytes(64))
        bad = replace(good, signatures=tuple(entries))
        name = f"signature {place} of four is bad, the others would do"
        yield refuse(name, _SIGNED, _BAD, **_fields(_EVEN, bad))
    swapped = list(good.signatures)
    swapped[0], swapped[1] = (
        CommitSignature(swapped[0].validator, swapped[1].signature),
        CommitSignature(swapped[1].validator, swapped[0].signature),
    )
    forged = replace(good, signatures=tuple(swapped))
    yield refuse("two signatures exchanged", _SIGNED, _BAD, **_fields(_EVEN, forged))
