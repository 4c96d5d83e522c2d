"""`blocks.json`: headers, block ids, and what makes a block the successor of its parent (chapters 10.2 and 10.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec.structs import replace

from deepshard.conformance.vectors.document import Json, accept, document, refuse
from deepshard.conformance.vectors.generate.chain import TRANSACTIONS, blocks, next_header, set_of
from deepshard.conformance.vectors.generate.network import CHAIN, KEYS, certificate, signed_header
from deepshard.consensus.blocks import ChainTip
from deepshard.consensus.types import Block, CommitCertificate, Header
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import encode
from deepshard.limits import BLOCK_TRANSACTIONS_MAX, HEADER_BYTES_MAX, TRANSACTION_BYTES_MAX
from deepshard.merkle import merkle_root
from deepshard.primitives import ZERO_DIGEST

_FORM: Final = ("10.2/1", "10.2/2", "10.2/4", "10.2/5")
_GOOD: Final = (*_FORM, "10.3/1", "10.3/2", "10.3/4", "10.3/5")
_PARENT, _VALIDATORS, _SIZES, _ROOTS, _COMMIT, _ANY = (
    ("10.3/1",),
    ("10.3/2",),
    ("10.3/3",),
    ("10.3/4",),
    ("10.3/5",),
    ("10.3/7",),
)
_BAD: Final = "InvalidBlock"


def make() -> Json:
    """The file."""
    return document(
        "blocks",
        "Blocks (chapters 10.2 and 10.3): ids, and what can be checked of a block without executing it.",
        [*_good(), *_bad_headers(), *_bad_contents(), *_bad_commits()],
        chain_id=CHAIN,
    )


def _fields(tip: ChainTip, block: Block, *, validators: ValidatorSet | None = None, show: bool = True) -> Json:
    parent: dict[str, Any] = {"height": tip.height, "block_id": tip.block_id, "time_ms": tip.time_ms}
    parent |= {"validators": tip.validators, "next_validators_hash": tip.next_validators_hash}
    members = validators or set_of(tip.height + 1)
    shown = {"header": block.header, "block_id": block.header.block_id()} if show else {}
    return {"parent": parent, "validators": members, "encoded": encode(block), **shown}


def _good() -> Iterator[Json]:
    for tip, block, _ in blocks()[:4]:
        yield accept(f"the block of height {block.header.height}", _GOOD, **_fields(tip, block))
    tip, block, _ = blocks()[2]
    parent = blocks()[1][1].header
    for name, last in (
        ("by all four", signed_header(parent, set_of(2))),
        ("of a later round", certificate(KEYS[1:4], height=2, block_id=parent.block_id(), round_=9)),
    ):
        other = Block(next_header(tip, last), TRANSACTIONS, last)
        yield accept(f"a certificate of the parent {name}", (*_COMMIT, *_ANY), **_fields(tip, other))
    empty = Block(next_header(tip, block.last_commit, ()), (), block.last_commit)
    yield accept("a block without transactions", _GOOD, **_fields(tip, empty))
    late = replace(block, header=replace(block.header, time_ms=2**62))
    note = "whether a decided block is valid depends on nobody's clock"
    yield accept("a time in the far future", ("10.3/8",), note=note, **_fields(tip, late))


def _bad_headers() -> Iterator[Json]:
    tip, block, _ = blocks()[2]
    changes: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("version 2", _PARENT, {"version": 2}),
        ("version 0", _PARENT, {"version": 0}),
        ("another chain", _PARENT, {"chain_id": "other-chain"}),
        ("the parent's height", _PARENT, {"height": 2}),
        ("a height too high", _PARENT, {"height": 4}),
        ("another parent", _PARENT, {"parent_id": ZERO_DIGEST}),
        ("its grandparent for a parent", _PARENT, {"parent_id": tip.block_id[::-1]}),
        ("the parent's time", _PARENT, {"time_ms": tip.time_ms}),
        ("a time before the parent's", _PARENT, {"time_ms": tip.time_ms - 1}),
        ("another validators hash", _VALIDATORS, {"validators_hash": set_of(6).hash()}),
        ("a proposer outside of the set", _VALIDATORS, {"proposer": KEYS[8].address}),
        ("another transactions root", _ROOTS, {"transactions_root": ZERO_DIGEST}),
        ("another last commit hash", _ROOTS, {"last_commit_hash": ZERO_DIGEST}),
    ]
    for name, clauses, changed in changes:
        bad = replace(block, header=replace(block.header, **changed))
        yield refuse(f"header: {name}", clauses, _BAD, **_fields(tip, bad))
    others = set_of(6)
    header = replace(block.header, validators_hash=others.hash(), proposer=others.validators[0].address)
    bad = replace(block, header=header)
    why = "the parent announced another set"
    yield refuse("header: a set of its own", _VALIDATORS, _BAD, why=why, **_fields(tip, bad, validators=others))


def _bad_contents() -> Iterator[Json]:
    tip, block, _ = blocks()[0]
    swapped = replace(block, transactions=block.transactions[::-1])
    yield refuse("transactions in another order", _ROOTS, _BAD, **_fields(tip, swapped))
    less = replace(block, transactions=block.transactions[:2])
    yield refuse("a transaction left out", _ROOTS, _BAD, **_fields(tip, less))
    many: list[tuple[str, tuple[bytes, ...]]] = [
        (f"{BLOCK_TRANSACTIONS_MAX + 1} transactions", (b"",) * (BLOCK_TRANSACTIONS_MAX + 1)),
        (f"a transaction of {TRANSACTION_BYTES_MAX + 1} bytes", (bytes(TRANSACTION_BYTES_MAX + 1),)),
        ("17 of the largest transactions", (bytes(TRANSACTION_BYTES_MAX),) * 17),
    ]
    for name, transactions in many:
        header = replace(block.header, transactions_root=merkle_root(transactions))
        yield refuse(name, _SIZES, _BAD, **_fields(tip, Block(header, transactions, None), show=False))
    most = (b"",) * BLOCK_TRANSACTIONS_MAX
    header = replace(block.header, transactions_root=merkle_root(most))
    full = Block(header, most, None)
    yield accept(f"{BLOCK_TRANSACTIONS_MAX} transactions", _SIZES, **_fields(tip, full))
    long = replace(block.header, chain_id="c" * HEADER_BYTES_MAX)
    wide = replace(block, header=long)
    yield refuse("a header with a chain id of 2 KiB", (*_SIZES, *_PARENT), _BAD, **_fields(tip, wide))


def _bad_commits() -> Iterator[Json]:
    tip, _, _ = blocks()[2]
    parent: Header = blocks()[1][1].header
    wrong: list[tuple[str, CommitCertificate | None]] = [
        ("no certificate of the parent", None),
        ("too little power", signed_header(parent, set_of(2), 2)),
        ("a certificate of the grandparent", blocks()[0][2]),
        ("a bad signature", _with_zeros(signed_header(parent, set_of(2)))),
        ("validators of another height", certificate(KEYS[5:9], height=2, block_id=parent.block_id())),
    ]
    for name, last in wrong:
        yield refuse(name, _COMMIT, _BAD, **_fields(tip, Block(next_header(tip, last), TRANSACTIONS, last)))
    tip, _, known = blocks()[0]
    first = Block(next_header(tip, known), TRANSACTIONS, known)
    yield refuse("a certificate at height 1", _COMMIT, _BAD, **_fields(tip, first))


def _with_zeros(good: CommitCertificate) -> CommitCertificate:
    last = replace(good.signatures[-1], signature=bytes(64))
    return replace(good, signatures=(*good.signatures[:-1], last))
