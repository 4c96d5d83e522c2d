"""`evidence.json`: evidence that anyone can check (chapter 9.5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec.structs import replace

from deepshard.ballots import PROPOSAL_TAG, VoteKind
from deepshard.conformance.vectors.document import Json, accept, document, refuse
from deepshard.conformance.vectors.generate.chain import light_block
from deepshard.conformance.vectors.generate.network import (
    BLOCK,
    CHAIN,
    KEYS,
    OTHER,
    certificate,
    members,
    signed_proposal,
    signed_vote,
)
from deepshard.consensus.forensics import ConflictingCommits, DecidedHeader, conflicting_commits
from deepshard.consensus.types import Header
from deepshard.encoding import encode
from deepshard.evidence import Amnesia, DuplicateVote, duplicate_proposal, duplicate_vote
from deepshard.limits import EVIDENCE_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST

_PAIR, _SIGNED, _COMMITS, _FILE = ("9.5/1", "9.5/2"), ("9.5/3",), ("9.5/4",), ("9.5/6",)
_PREVOTE, _PRECOMMIT = VoteKind.PREVOTE, VoteKind.PRECOMMIT
_KEY, _OTHER_KEY = KEYS[1], KEYS[2]
_SET: Final = members(10, 20, 30, 40)
_BAD: Final = "InvalidEvidence"


def make() -> Json:
    """The file."""
    return document(
        "evidence",
        "Evidence that validators contradict themselves, as files (chapter 9.5).",
        [
            *_votes(),
            *_bad_votes(),
            *_proposals(),
            *_amnesia(),
            *_bad_amnesia(),
            *_commits(),
            *_bad_commits(),
            *_files(),
        ],
        chain_id=CHAIN,
    )


def _file(evidence: Any) -> Json:  # noqa: ANN401  # one of four records
    return {"encoded": encode(evidence), "evidence": evidence}


def _votes() -> Iterator[Json]:
    for name, kind, block_a, block_b, valid_a, valid_b in (
        ("two prevotes", _PREVOTE, BLOCK, OTHER, -1, -1),
        ("two precommits", _PRECOMMIT, BLOCK, OTHER, -1, -1),
        ("a prevote for a block and one for nil", _PREVOTE, BLOCK, ZERO_DIGEST, -1, -1),
        ("two prevotes for one block on the word of different rounds", _PREVOTE, BLOCK, BLOCK, 0, 1),
    ):
        a = signed_vote(_KEY, kind, 7, 2, block_a, valid_round=valid_a)
        b = signed_vote(_KEY, kind, 7, 2, block_b, valid_round=valid_b)
        fields = {"kind": "duplicate-vote", "height": 7, "round": 2, "convicted": [_KEY.address]}
        yield accept(name, (*_PAIR, *_SIGNED), **_file(duplicate_vote(_KEY.public, a, b)), **fields)


def _bad_votes() -> Iterator[Json]:
    good = duplicate_vote(
        _KEY.public, signed_vote(_KEY, _PREVOTE, 7, 2, BLOCK), signed_vote(_KEY, _PREVOTE, 7, 2, OTHER)
    )
    a, b = good.vote_a, good.vote_b
    wrong = {
        "out of order": DuplicateVote(_KEY.public, b, a),
        "one vote twice": DuplicateVote(_KEY.public, a, a),
        "of two kinds": replace(good, vote_b=signed_vote(_KEY, _PRECOMMIT, 7, 2, b.block_id)),
        "of two heights": replace(good, vote_b=signed_vote(_KEY, _PREVOTE, 8, 2, b.block_id)),
        "of two rounds": replace(good, vote_b=signed_vote(_KEY, _PREVOTE, 7, 3, b.block_id)),
        "of two validators": replace(good, vote_b=signed_vote(_OTHER_KEY, _PREVOTE, 7, 2, b.block_id)),
        "with the key of another": replace(good, public_key=_OTHER_KEY.public),
    }
    for name, evidence in wrong.items():
        yield refuse(f"votes {name}", (*_PAIR, *_SIGNED), _BAD, **_file(evidence))
    forged = {
        "the first forged": replace(good, vote_a=replace(a, signature=bytes(64))),
        "the second forged": replace(good, vote_b=replace(b, signature=a.signature)),
        "another signs for the validator": replace(
            good, vote_b=replace(signed_vote(_OTHER_KEY, _PREVOTE, 7, 2, b.block_id), validator=_KEY.address)
        ),
        "of another chain": duplicate_vote(
            _KEY.public,
            signed_vote(_KEY, _PREVOTE, 7, 2, BLOCK, chain="other-chain"),
            signed_vote(_KEY, _PREVOTE, 7, 2, OTHER, chain="other-chain"),
        ),
        "signed as proposals": duplicate_vote(
            _KEY.public,
            signed_vote(_KEY, _PREVOTE, 7, 2, BLOCK, tag=PROPOSAL_TAG),
            signed_vote(_KEY, _PREVOTE, 7, 2, OTHER, tag=PROPOSAL_TAG),
        ),
    }
    for name, evidence in forged.items():
        yield refuse(f"votes: {name}", _SIGNED, "BadSignature", **_file(evidence))


def _proposals() -> Iterator[Json]:
    good = duplicate_proposal(
        _KEY.public, signed_proposal(_KEY, 7, 2, -1, BLOCK), signed_proposal(_KEY, 7, 2, -1, OTHER)
    )
    again = duplicate_proposal(
        _KEY.public, signed_proposal(_KEY, 7, 2, 0, BLOCK), signed_proposal(_KEY, 7, 2, 1, BLOCK)
    )
    fields = {"kind": "duplicate-proposal", "height": 7, "round": 2, "convicted": [_KEY.address]}
    yield accept("two proposals", (*_PAIR, *_SIGNED), **_file(good), **fields)
    yield accept("one block proposed with two valid rounds", (*_PAIR, *_SIGNED), **_file(again), **fields)
    later = replace(good, proposal_b=signed_proposal(_KEY, 7, 3, -1, good.proposal_b.block_id))
    yield refuse("proposals of two rounds", _PAIR, _BAD, **_file(later))
    swapped = replace(good, proposal_a=good.proposal_b, proposal_b=good.proposal_a)
    yield refuse("proposals out of order", _PAIR, _BAD, **_file(swapped))
    forged = replace(good, proposal_b=replace(good.proposal_b, signature=bytes(64)))
    yield refuse("proposals: the second forged", _SIGNED, "BadSignature", **_file(forged))


def _amnesia() -> Iterator[Json]:
    for name, locked, round_, valid_round in (
        ("a prevote on the word of none", 1, 2, -1),
        ("a prevote on the word of an earlier round", 4, 9, 3),
    ):
        precommit = signed_vote(_KEY, _PRECOMMIT, 7, locked, BLOCK)
        prevote = signed_vote(_KEY, _PREVOTE, 7, round_, OTHER, valid_round=valid_round)
        fields = {"kind": "amnesia", "height": 7, "round": round_, "convicted": [_KEY.address]}
        yield accept(
            f"amnesia: {name}", (*_PAIR, *_SIGNED), **_file(Amnesia(_KEY.public, precommit, prevote)), **fields
        )


def _bad_amnesia() -> Iterator[Json]:
    good = Amnesia(
        _KEY.public, signed_vote(_KEY, _PRECOMMIT, 7, 1, BLOCK), signed_vote(_KEY, _PREVOTE, 7, 2, OTHER, valid_round=0)
    )
    wrong = {
        "for the block that it is locked on": replace(good, prevote=signed_vote(_KEY, _PREVOTE, 7, 2, BLOCK)),
        "for nil": replace(good, prevote=signed_vote(_KEY, _PREVOTE, 7, 2, ZERO_DIGEST)),
        "in the round of the lock": replace(good, prevote=signed_vote(_KEY, _PREVOTE, 7, 1, OTHER)),
        "in a round before": replace(good, prevote=signed_vote(_KEY, _PREVOTE, 7, 0, OTHER)),
        "on the word of the round of the lock": replace(
            good, prevote=signed_vote(_KEY, _PREVOTE, 7, 2, OTHER, valid_round=1)
        ),
        "at another height": replace(good, prevote=signed_vote(_KEY, _PREVOTE, 8, 2, OTHER)),
        "after a precommit for nil": replace(good, precommit=signed_vote(_KEY, _PRECOMMIT, 7, 1, ZERO_DIGEST)),
        "after a prevote": replace(good, precommit=signed_vote(_KEY, _PREVOTE, 7, 1, BLOCK)),
        "by another validator": replace(good, prevote=signed_vote(_OTHER_KEY, _PREVOTE, 7, 2, OTHER)),
    }
    for name, evidence in wrong.items():
        yield refuse(f"no amnesia: a prevote {name}", _PAIR, _BAD, **_file(evidence))
    forged = replace(good, prevote=replace(good.prevote, valid_round=-1))
    yield refuse("amnesia: another valid round put in", _SIGNED, "BadSignature", **_file(forged))


def _decided(header: Header, *places: int, round_: int = 1) -> DecidedHeader:
    validators = _SET
    header = replace(header, height=5, validators_hash=validators.hash())
    signed = certificate(
        [KEYS[place] for place in places], height=5, block_id=header.block_id(), round_=round_, chain=CHAIN
    )
    return DecidedHeader(header, signed, validators)


def _fork() -> tuple[Header, Header]:
    header = light_block(1).header
    return header, replace(header, time_ms=header.time_ms + 1)


def _commits() -> Iterator[Json]:
    one, other = _fork()
    same = conflicting_commits(_decided(one, 1, 2, 3), _decided(other, 0, 2, 3))
    both = sorted((KEYS[2].address, KEYS[3].address))
    fields = {"kind": "conflicting-commits", "height": 5}
    yield accept("two blocks decided in one round", _COMMITS, **_file(same), **fields, convicted=both)
    apart = conflicting_commits(_decided(one, 1, 2, 3), _decided(other, 0, 2, 3, round_=2))
    yield accept("two blocks decided in two rounds", _COMMITS, **_file(apart), **fields, convicted=[])


def _bad_commits() -> Iterator[Json]:
    one, other = _fork()
    good = conflicting_commits(_decided(one, 1, 2, 3), _decided(other, 0, 2, 3))
    later = light_block(2).header
    few = replace(good.second, certificate=replace(good.second.certificate, signatures=()))
    fewer = replace(good.second, validators=members(10, 20, 30))
    foreign = _decided(replace(other, chain_id="other-chain"), 0, 2, 3)
    wrong = {
        "out of order": ConflictingCommits(good.second, good.first),
        "of one block": ConflictingCommits(good.first, good.first),
        "of two heights": conflicting_commits(
            good.first, DecidedHeader(later, light_block(2).certificate, light_block(2).validators)
        ),
        "without signatures": replace(good, second=few),
        "with other validators": replace(good, second=fewer),
        "of another chain": conflicting_commits(_decided(one, 1, 2, 3), foreign),
    }
    for name, evidence in wrong.items():
        yield refuse(f"commits {name}", _COMMITS, _BAD, **_file(evidence))


def _files() -> Iterator[Json]:
    good = encode(
        duplicate_vote(_KEY.public, signed_vote(_KEY, _PREVOTE, 7, 2, BLOCK), signed_vote(_KEY, _PREVOTE, 7, 2, OTHER))
    )
    for name, data, error in (
        ("empty", b"", "MalformedMessage"),
        ("with a byte behind it", good + b"\x00", "MalformedMessage"),
        ("cut short", good[:-1], "MalformedMessage"),
        ("of a tag that isn't evidence", good.replace(b"duplicate-vote", b"duplicate-veto"), "MalformedMessage"),
        ("too large", bytes(EVIDENCE_BYTES_MAX + 1), "OversizedMessage"),
    ):
        yield refuse(f"a file {name}", _FILE, error, encoded=data)
