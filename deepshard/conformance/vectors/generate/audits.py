"""`audits.json`: chunk trees, what an audit draws, and blocks with answers (chapter 11.12)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from msgspec.structs import replace

from deepshard.chunk_tree import ChunkRef, ShardChunks, leaf_path
from deepshard.conformance.vectors.document import Json, accept, digest_of, document, key_of
from deepshard.conformance.vectors.generate import forms
from deepshard.conformance.vectors.generate.draws import Stream
from deepshard.conformance.vectors.generate.ledger import (
    CHAIN,
    STRANGER,
    TOKEN,
    VALIDATORS,
    Cases,
    Ledger,
    genesis,
    shown_state,
)
from deepshard.conformance.vectors.generate.merkle import root_of
from deepshard.encoding import encode
from deepshard.identity import SecretKey
from deepshard.ledger import genesis_state
from deepshard.ledger.audits import drawn_block, due_holders
from deepshard.ledger.params import Genesis
from deepshard.ledger.records import Audit
from deepshard.ledger.state import State
from deepshard.ledger.transactions import Action, AnswerAudit, OfferStorage, ShowAudit, Unbond
from deepshard.primitives import block_hashes, content_digest, tagged_hash
from deepshard.ranges import range_proof

_TREE, _OPEN, _SHARDS, _DUE, _BLOCK = ("11.12/1",), ("11.12/2",), ("11.12/3",), ("11.12/4",), ("11.12/5",)
_ANSWER, _SHOW, _CLOSE = ("11.12/6",), ("11.12/7",), ("11.12/8",)
_SIZES: Final = ((40_000, 10), (16_384,), (0,), (20_000, 3, 16_385))
_CHUNKS: Final = tuple(
    tuple(bytes([16 * row + place]) * size for place, size in enumerate(sizes)) for row, sizes in enumerate(_SIZES)
)


def make() -> Json:
    """The file."""
    cases = Cases(_states())
    groups = (_trees(), _draws(), _blocks(), _opened(cases), _answers(cases), _refused(cases), _closed(cases))
    return document(
        "audits",
        "Storage audits (chapter 11.12): chunk trees, draws, and blocks as in transactions.json.",
        [case for group in groups for case in group],
        chain_id=CHAIN,
        genesis_hash=_genesis().hash(),
        genesis_encoded=encode(_genesis()),
        states={name: shown_state(state) for name, state in _states().items()},
    )


@cache
def _leaves() -> tuple[ShardChunks, ...]:
    keys = [tagged_hash("shard position", b"w", row.to_bytes(8, "little")) for row in range(len(_CHUNKS))]
    return tuple(
        ShardChunks(row, key, tuple(ChunkRef(content_digest(chunk), len(chunk)) for chunk in chunks))
        for row, (key, chunks) in enumerate(zip(keys, _CHUNKS, strict=True))
    )


@cache
def _genesis() -> Genesis:
    params = replace(
        genesis().params,
        epoch_blocks=8,
        unbonding_blocks=24,
        replication=3,
        audits_per_epoch=3,
        audit_blocks=3,
        audit_slash_bp=100,
    )
    root = root_of([encode(leaf) for leaf in _leaves()])
    return replace(genesis(), params=params, chunks_root=root, shard_count=len(_leaves()))


@cache
def _states() -> dict[str, State]:
    ledger = Ledger()
    ledger.state = genesis_state(_genesis())
    ledger.block(*ledger.sign(VALIDATORS[0], OfferStorage(900 * TOKEN, "a", "")))
    ledger.until(lambda state: state.chain().height == 11)
    states = {"to be drawn": ledger.state}
    ledger.block()
    states["open"] = ledger.state
    changed = _after(ledger.state, VALIDATORS[0], OfferStorage(0, "", ""))
    states["open, with a new offer"] = changed
    first, second, _ = _drawn(ledger.state)
    answering = Ledger()
    answering.state = ledger.state
    sender = _due(ledger.state, first)[0]
    leaving = _due(ledger.state, second)[-1]
    answering.block(
        *answering.sign(sender, _answer(ledger.state, sender, first)),
        *answering.sign(leaving, Unbond(400 * TOKEN + 1)),
    )
    states["one has answered"] = answering.state
    shower = next(key for key in VALIDATORS if key not in {sender, leaving})
    answering.block(*answering.sign(shower, _show(second)))
    states["to be closed"] = answering.state
    answering.block()
    states["closed"] = answering.state
    return states


def _after(state: State, sender: SecretKey, action: Action) -> State:
    ledger = Ledger()
    ledger.state = state
    ledger.block(*ledger.sign(sender, action))
    return ledger.state


def _audit(state: State) -> Audit:
    return state.audits()[-1]


def _drawn(state: State) -> tuple[int, ...]:
    return tuple(one.shard for one in _audit(state).shards)


def _due(state: State, shard: int) -> list[SecretKey]:
    due = due_holders(state, _leaves()[shard].key)
    return [key for key in VALIDATORS if key.address in due]


def _show(shard: int) -> ShowAudit:
    return ShowAudit(1, _leaves()[shard], leaf_path(_leaves(), shard))


def _answer(state: State, sender: SecretKey, shard: int) -> AnswerAudit:
    leaf = _leaves()[shard]
    block = drawn_block(_audit(state).seed, shard, sender.address, leaf.blocks)
    for chunk in _CHUNKS[shard]:
        hashes = block_hashes(chunk)
        if block < len(hashes):
            data = chunk[16_384 * block : 16_384 * (block + 1)]
            return AnswerAudit(1, leaf, leaf_path(_leaves(), shard), data, range_proof(hashes, block, 1))
        block -= len(hashes)
    raise AssertionError


def _trees() -> Iterator[Json]:
    for count in range(len(_leaves()) + 1):
        leaves = _leaves()[:count]
        encoded = [
            forms.encoded([leaf.position, leaf.key, [[chunk.digest, chunk.size] for chunk in leaf.chunks]])
            for leaf in leaves
        ]
        fields: dict[str, Any] = {"leaves": leaves, "encoded": encoded, "root": root_of(encoded)}
        yield accept(f"chunk tree of {count} leaves", _TREE, operation="tree", **fields)


def _draws() -> Iterator[Json]:
    for shard_count, count in ((1, 3), (7, 3), (200, 64), (0, 2), (10, 0)):
        seed = digest_of(f"audit {shard_count}")
        shards = sorted(Stream(seed, "audit").sample(shard_count, count))
        fields = {"seed": seed, "shard_count": shard_count, "count": count, "shards": shards}
        yield accept(f"{count} of {shard_count} shards are drawn", _SHARDS, operation="shards", **fields)


def _blocks() -> Iterator[Json]:
    seed = digest_of("audit blocks")
    for shard, holder, blocks in ((0, "a", 1), (0, "a", 129), (0, "b", 129), (1, "a", 129), (2**17 - 1, "b", 16_900)):
        address = key_of(holder).address
        drawn = tagged_hash("audit block", seed, shard.to_bytes(8, "little"), address)
        block = int.from_bytes(drawn[:8], "little") % blocks
        fields = {"seed": seed, "shard": shard, "holder": address, "blocks": blocks, "block": block}
        yield accept(
            f"one of {blocks} blocks of shard {shard} is drawn for {holder}", _BLOCK, operation="block", **fields
        )


def _opened(cases: Cases) -> Iterator[Json]:
    yield cases.good("an audit is drawn", (*_OPEN, *_SHARDS, "11.7/1", "11.9/2", "11.8/1"), "to be drawn", [])


def _answers(cases: Cases) -> Iterator[Json]:
    ledger = cases.on("open")
    shards = _drawn(ledger.state)
    everyone = [data for key in VALIDATORS for data in ledger.sign(key, *_all_answers(ledger.state, key))]
    yield cases.good("every answer that is due", (*_ANSWER, *_DUE, *_BLOCK), "open", everyone)
    sender = _due(ledger.state, shards[0])[0]
    one = ledger.sign(sender, _answer(ledger.state, sender, shards[0]))
    yield cases.good("one answer", (*_ANSWER, *_DUE, *_BLOCK), "open", one)
    again = cases.on("one has answered")
    other = _due(again.state, shards[0])[1]
    second = again.sign(other, _answer(again.state, other, shards[0]))
    yield cases.good("an answer for a shard that is shown", _ANSWER, "one has answered", second)
    yield cases.good("a leaf is shown", (*_SHOW, *_DUE), "open", ledger.sign(VALIDATORS[0], _show(shards[1])))
    fresh = cases.on("open, with a new offer")
    name = "who offers nothing since the epoch began is due still"
    yield cases.good(name, (*_SHOW, *_DUE), "open, with a new offer", fresh.sign(VALIDATORS[1], _show(shards[1])))


def _all_answers(state: State, key: SecretKey) -> list[AnswerAudit]:
    return [_answer(state, key, shard) for shard in _drawn(state) if key in _due(state, shard)]


def _refused(cases: Cases) -> Iterator[Json]:
    ledger = cases.on("open")
    state, shards = ledger.state, _drawn(ledger.state)
    shard = next(row for row in shards if len(_CHUNKS[row]) > 1 or len(_CHUNKS[row][0]) > 16_384)
    sender = _due(state, shard)[0]
    good = _answer(state, sender, shard)
    undrawn = next(row for row in range(len(_leaves())) if row not in shards)
    outside = next((key, row) for row in shards for key in VALIDATORS if key not in _due(state, row))
    bent = bytes([good.block[0] ^ 1]) + good.block[1:]
    chunk = good.leaf.chunks[0]
    for name, key, action, error in (
        ("a flipped bit", sender, replace(good, block=bent), "WrongAnswer"),
        ("a block that is cut", sender, replace(good, block=good.block[:-1]), "WrongAnswer"),
        ("no block", sender, replace(good, block=b""), "WrongAnswer"),
        ("a hash too many", sender, replace(good, proof=(*good.proof, bytes(32))), "WrongAnswer"),
        ("a path of another leaf", sender, replace(good, path=leaf_path(_leaves(), shard ^ 1)), "WrongAnswer"),
        ("a leaf of another key", sender, replace(good, leaf=replace(good.leaf, key=bytes(32))), "WrongAnswer"),
        (
            "a leaf of another chunk",
            sender,
            replace(good, leaf=replace(good.leaf, chunks=(replace(chunk, size=chunk.size + 1),))),
            "WrongAnswer",
        ),
        ("a shard that isn't drawn", sender, replace(_answer(state, sender, undrawn), epoch=1), "NotDrawn"),
        ("another epoch", sender, replace(good, epoch=2), "UnknownAudit"),
        ("who is not due", outside[0], _answer(state, *outside), "NotDue"),
        ("nobody in the set", STRANGER, good, "NotAValidator"),
    ):
        yield cases.bad(f"answer: {name}", _ANSWER, error, "open", ledger.sign(key, action))
    again = cases.on("one has answered")
    first = _due(again.state, shards[0])[0]
    twice = again.sign(first, _answer(again.state, first, shards[0]))
    yield cases.bad("answer: twice", _ANSWER, "AlreadyDone", "one has answered", twice)
    late = cases.on("closed")
    after = late.sign(sender, good)
    yield cases.bad("answer: too late", _ANSWER, "WrongPhase", "closed", after)
    for name, key, shown, error in (
        ("a leaf that is known", VALIDATORS[1], _show(shards[0]), "WrongPhase"),
        ("a shard that isn't drawn", VALIDATORS[1], _show(undrawn), "NotDrawn"),
        ("a path that is cut", VALIDATORS[1], replace(_show(shards[1]), path=()), "WrongAnswer"),
        ("nobody in the set", STRANGER, _show(shards[1]), "NotAValidator"),
    ):
        yield cases.bad(f"show: {name}", _SHOW, error, "one has answered", again.sign(key, shown))


def _closed(cases: Cases) -> Iterator[Json]:
    clauses = (*_CLOSE, "11.7/1", "11.9/2", "11.8/1")
    yield cases.good("the audit closes: some have answered", clauses, "to be closed", [])
    ledger = cases.on("to be closed")
    shard = _drawn(ledger.state)[1]
    last = [data for key in _due(ledger.state, shard) for data in ledger.sign(key, _answer(ledger.state, key, shard))]
    yield cases.good("the audit closes: answers in the last block count", clauses, "to be closed", last)
