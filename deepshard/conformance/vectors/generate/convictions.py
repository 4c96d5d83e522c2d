"""`convictions.json`: blocks with evidence against validators, and what follows (chapter 11.11)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from msgspec.structs import replace

from deepshard.ballots import VoteKind
from deepshard.conformance.vectors.document import Json, document
from deepshard.conformance.vectors.generate.ledger import (
    BUYER,
    CHAIN,
    STRANGER,
    TOKEN,
    TRAINERS,
    VALIDATORS,
    Cases,
    Ledger,
    genesis,
    onion,
    shown_state,
)
from deepshard.conformance.vectors.generate.network import BLOCK, OTHER, signed_proposal, signed_vote
from deepshard.conformance.vectors.params import PARAMS
from deepshard.encoding import encode
from deepshard.evidence import Amnesia, Evidence, duplicate_proposal, duplicate_vote
from deepshard.identity import SecretKey
from deepshard.ledger.state import State
from deepshard.ledger.transactions import Bond, ReportEvidence, Unbond, Unjail

_RULE, _JAIL, _FREE, _EPOCHS = ("11.11/1",), ("11.11/2",), ("11.11/3",), ("11.11/4",)
_ONE, _TWO, _THREE, _FOUR = VALIDATORS


def make() -> Json:
    """The file."""
    cases = Cases(_states())
    groups = (_reports(cases), _refused(cases), _epochs(cases), _unjailed(cases), _in_jail(cases))
    return document(
        "convictions",
        "Blocks with evidence against validators, and the way out of jail (chapter 11.11), as in transactions.json.",
        [case for group in groups for case in group],
        chain_id=CHAIN,
        genesis_hash=genesis().hash(),
        genesis_encoded=encode(genesis()),
        states={name: shown_state(state) for name, state in _states().items()},
    )


def _votes(key: SecretKey, height: int, round_: int = 0) -> ReportEvidence:
    votes = (signed_vote(key, VoteKind.PREVOTE, height, round_, block, chain=CHAIN) for block in (BLOCK, OTHER))
    return ReportEvidence(duplicate_vote(key.public, *votes))


def _proposals(key: SecretKey, height: int) -> ReportEvidence:
    one, other = (signed_proposal(key, height, 0, -1, block, chain=CHAIN) for block in (BLOCK, OTHER))
    return ReportEvidence(duplicate_proposal(key.public, one, other))


def _amnesia(key: SecretKey, height: int) -> ReportEvidence:
    precommit = signed_vote(key, VoteKind.PRECOMMIT, height, 0, BLOCK, chain=CHAIN)
    prevote = signed_vote(key, VoteKind.PREVOTE, height, 2, OTHER, chain=CHAIN)
    return ReportEvidence(Amnesia(key.public, precommit, prevote))


@cache
def _states() -> dict[str, State]:
    states: dict[str, State] = {}
    ledger = Ledger()
    states["genesis"] = ledger.state
    ledger.block(*ledger.sign(_ONE, _votes(_THREE, 1)))
    ledger.until(lambda state: state.chain().height == PARAMS.epoch_blocks - 2)
    states["convicted"] = ledger.state
    ledger.until(lambda state: state.chain().height == PARAMS.jail_blocks - 1)
    states["jailed"] = ledger.state
    ledger.block()
    states["to be freed"] = ledger.state
    everyone = Ledger()
    everyone.block(*everyone.sign(_ONE, *(_votes(key, 1) for key in VALIDATORS)))
    everyone.until(lambda state: state.chain().height == PARAMS.epoch_blocks - 2)
    states["all convicted"] = everyone.state
    leaving = Ledger()
    leaving.block(*leaving.sign(_TWO, Unbond(400 * TOKEN), Unbond(600 * TOKEN)))
    leaving.until(lambda state: state.chain().height == PARAMS.epoch_blocks)
    states["left"] = leaving.state
    leaving.until(lambda state: state.chain().height == PARAMS.unbonding_blocks - 1)
    states["nearly paid out"] = leaving.state
    return states


def _reports(cases: Cases) -> Iterator[Json]:
    ledger = cases.on("genesis")
    clauses = (*_RULE, "11.2/5", "11.9/2", "11.8/1", "9.5/7")
    for name, action in (
        ("two votes", _votes(_THREE, 1)),
        ("two votes of a later round", _votes(_THREE, 1, 5)),
        ("two proposals", _proposals(_THREE, 1)),
        ("amnesia", _amnesia(_THREE, 1)),
    ):
        yield cases.good(f"report: {name}", clauses, "genesis", ledger.sign(_ONE, action))
    yield cases.good("report: of oneself", clauses, "genesis", ledger.sign(_THREE, _votes(_THREE, 1)))
    two = ledger.sign(_ONE, _votes(_TWO, 1), _votes(_THREE, 1))
    yield cases.good("report: of two validators", clauses, "genesis", two)
    gone = cases.on("left").sign(_ONE, _votes(_TWO, 4))
    yield cases.good("report: of who has left, and is not paid out", (*_RULE, *_EPOCHS), "left", gone)
    oldest = cases.on("nearly paid out").sign(_ONE, _votes(_FOUR, PARAMS.epoch_blocks))
    yield cases.good("report: as old as may be", (*_RULE, *_EPOCHS), "nearly paid out", oldest)


def _refused(cases: Cases) -> Iterator[Json]:
    ledger = cases.on("genesis")
    forged = _votes(_THREE, 1).evidence
    bent = replace(forged, vote_b=replace(forged.vote_b, signature=bytes(64)))  # type: ignore[union-attr]
    swapped = replace(forged, vote_a=forged.vote_b, vote_b=forged.vote_a)  # type: ignore[union-attr]
    for name, key, evidence, error in (
        ("by nobody who has bonded", TRAINERS[0], forged, "NotAValidator"),
        ("of a height to come", _ONE, _votes(_THREE, 2).evidence, "EvidenceOutOfTime"),
        ("of height 0", _ONE, _votes(_THREE, 0).evidence, "EvidenceOutOfTime"),
        ("of nobody in the set", _ONE, _votes(STRANGER, 1).evidence, "NotAValidator"),
        ("with a forged vote", _ONE, bent, "BadSignature"),
        ("with votes out of order", _ONE, swapped, "InvalidEvidence"),
    ):
        accused: Evidence = evidence
        yield cases.bad(f"report: {name}", _RULE, error, "genesis", ledger.sign(key, ReportEvidence(accused)))
    twice = [*ledger.sign(_ONE, _votes(_THREE, 1)), *ledger.sign(_TWO, _proposals(_THREE, 1))]
    yield cases.bad("report: a second time in one block", _RULE, "AlreadyConvicted", "genesis", twice)
    covered = cases.on("convicted").sign(_TWO, _amnesia(_THREE, PARAMS.epoch_blocks - 1))
    yield cases.bad("report: later in the epoch", _RULE, "AlreadyConvicted", "convicted", covered)
    outside = cases.on("jailed").sign(_TWO, _votes(_THREE, PARAMS.epoch_blocks))
    yield cases.bad("report: of who is in jail", _RULE, "NotAValidator", "jailed", outside)
    gone = cases.on("left").sign(_ONE, _votes(_TWO, PARAMS.epoch_blocks))
    yield cases.bad("report: of who had left", _RULE, "NotAValidator", "left", gone)
    old = cases.on("nearly paid out").sign(_ONE, _votes(_FOUR, PARAMS.epoch_blocks - 1))
    yield cases.bad("report: too old", _RULE, "EvidenceOutOfTime", "nearly paid out", old)


def _epochs(cases: Cases) -> Iterator[Json]:
    clauses = (*_JAIL, *_EPOCHS, "11.3/3", "11.7/1")
    yield cases.good("the convicted leave the set at the end of the epoch", clauses, "convicted", [])
    yield cases.good("nobody else is left: the set stays", clauses, "all convicted", [])


def _unjailed(cases: Cases) -> Iterator[Json]:
    clauses = (*_RULE, *_JAIL, "11.9/2")
    free = cases.on("to be freed")
    yield cases.good("unjail: at last", clauses, "to be freed", free.sign(_THREE, Unjail()))
    for name, key, state, error in (
        ("too early", _THREE, "jailed", "StillJailed"),
        ("by a validator that is not jailed", _ONE, "jailed", "NotJailed"),
        ("by nobody who has bonded", TRAINERS[0], "jailed", "NotJailed"),
    ):
        yield cases.bad(f"unjail: {name}", _RULE, error, state, cases.on(state).sign(key, Unjail()))
    yield cases.bad("unjail: twice", _RULE, "NotJailed", "to be freed", free.sign(_THREE, Unjail(), Unjail()))


def _in_jail(cases: Cases) -> Iterator[Json]:
    ledger = cases.on("jailed")
    record = ledger.state.validator(_THREE.address)
    assert record is not None
    more = ledger.sign(_THREE, Bond(100 * TOKEN, record.onion_tip), Unbond(record.stake + 100 * TOKEN))
    yield cases.good("in jail: more is bonded, and all is withdrawn", _FREE, "jailed", more)
    other = ledger.sign(BUYER, Bond(500 * TOKEN, onion(BUYER).tip))
    report = ledger.sign(_THREE, _votes(_FOUR, 7))
    yield cases.good("in jail: it reports another", _FREE, "jailed", [*other, *report])
