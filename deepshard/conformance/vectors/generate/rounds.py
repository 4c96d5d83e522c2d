"""`rounds.json`: blocks of a training round, from joining to its verdict (chapter 11.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Final

from msgspec.structs import replace

from deepshard.conformance.vectors.document import Json, digest_of, document
from deepshard.conformance.vectors.generate.ledger import (
    BALANCE,
    BUYER,
    CHAIN,
    INFORMANT,
    STRANGER,
    TOKEN,
    TRAINERS,
    VALIDATORS,
    Cases,
    Ledger,
    shown_state,
)
from deepshard.identity import SecretKey
from deepshard.ledger.probes import probes_of_round
from deepshard.ledger.state import State
from deepshard.ledger.transactions import (
    CommitVote,
    CommitWeights,
    JoinRound,
    ProbeScore,
    ProposeData,
    ReportScores,
    RevealVote,
    RevealWeights,
    SegmentRef,
    SubmissionReport,
    vote_commitment,
    weights_commitment,
)
from deepshard.limits import SKETCH_BUCKETS
from deepshard.primitives import ZERO_DIGEST

_RULES, _COMMITMENT, _OPENING, _PHASES, _VERDICT, _SETTLED = (
    ("11.5/1",),
    ("11.5/2",),
    ("11.5/3", "11.5/4", "11.5/5"),
    ("11.5/6", "11.5/7", "11.5/8"),
    ("11.5/13", "11.5/14", "11.5/15", "11.5/16", "11.5/17", "11.5/18"),
    ("11.5/19", "11.5/23", "11.9/3", "11.9/4", "11.1/2"),
)
_PROBES: Final = ("11.5/10", "11.5/11")
_ACCEPTED: Final = (*_SETTLED, "11.5/21", "11.5/22", "11.8/4", "11.8/5")
_VOID: Final = (*_SETTLED, "11.5/20")
_STAKE: Final = 100 * TOKEN
_GAINS: Final = {"batch": 600, "heldout": 140, "rejected": 150, "general": 20}


def make() -> Json:
    """The file."""
    cases = Cases(_states())
    groups = (_opening(cases), _joins(cases), _commits(cases), _reveals(cases), _reports(cases), _verdicts(cases))
    return document(
        "rounds",
        "Blocks of a training round (chapter 11.5): the state before, all that changes, the receipts; or the error.",
        [case for group in groups for case in group],
        chain_id=CHAIN,
        states={name: shown_state(state) for name, state in _states().items()},
    )


def _status(name: str) -> Callable[[State], bool]:
    return lambda state: (found := state.current_round()) is not None and found.status == name


@cache
def _states() -> dict[str, State]:
    ledger, states = Ledger(), {}
    segments = tuple(SegmentRef(digest_of(f"segment {number}"), 100) for number in range(3))
    ledger.block(*ledger.sign(INFORMANT, ProposeData(segments, "title", "en", "CC0-1.0", 20 * TOKEN)))
    (proposal,) = (record.id for record in ledger.state.proposals())
    scores = ((8000, 8000, 8000, 8000, 8000),) * 3
    ballot = RevealVote(proposal, scores, accept=True, harmful=False, predicted_accept_bp=7000, salt=digest_of("salt"))
    commits = [CommitVote(proposal, vote_commitment(ballot, key.address)) for key in VALIDATORS]
    ledger.block(*(ledger.sign(key, commit)[0] for key, commit in zip(VALIDATORS, commits, strict=True)))
    ledger.block(*(ledger.sign(key, ballot)[0] for key in VALIDATORS))
    ledger.until(lambda state: state.chain().height + 1 >= state.agenda().waiting[0].not_before)
    states["waiting"] = ledger.state
    ledger.until(_status("joining"))
    states["joining"] = ledger.state
    states["unjoined"] = _after_a_block(ledger.state)
    ledger.block(*(ledger.sign(key, JoinRound(1, _STAKE))[0] for key in TRAINERS))
    states["joined"] = ledger.state
    ledger.until(_status("training"))
    states["training"] = ledger.state
    ledger.block(*(ledger.sign(key, _commitment(key))[0] for key in TRAINERS[:2]))
    states["committed"] = ledger.state
    ledger.until(_status("revealing"))
    states["revealing"] = ledger.state
    ledger.block(*(ledger.sign(key, _submission(key))[0] for key in TRAINERS[:2]))
    ledger.until(_status("scoring"))
    states["scoring"] = ledger.state
    return states


def _after_a_block(state: State) -> State:
    ledger = Ledger()
    ledger.state = state
    ledger.block()
    return ledger.state


def _submission(key: SecretKey) -> RevealWeights:
    name = key.address.hex()
    return RevealWeights(
        round=1,
        manifest=digest_of(f"manifest {name}"),
        weights_root=digest_of(f"weights {name}"),
        chunks_root=digest_of(f"chunks {name}"),
        shard_count=9,
        checkpoint_root=digest_of("c"),
        salt=digest_of("s"),
    )


def _commitment(key: SecretKey) -> CommitWeights:
    return CommitWeights(1, weights_commitment(_submission(key), key.address))


def _opening(cases: Cases) -> Iterator[Json]:
    yield cases.good("a round opens", _OPENING, "waiting", [])
    yield cases.good("nobody joins: the first block", _PHASES, "joining", [])
    yield cases.good("nobody has joined: the round is void", (*_PHASES, *_VOID), "unjoined", [])
    yield cases.good("joining ends", _PHASES, "joined", [])


def _joins(cases: Cases) -> Iterator[Json]:
    ledger = cases.on("joining")
    yield cases.good("join", _RULES, "joining", ledger.sign(TRAINERS[0], JoinRound(1, _STAKE)))
    all_ = [ledger.sign(key, JoinRound(1, _STAKE + 1))[0] for key in reversed(TRAINERS)]
    yield cases.good("join: three, the last first", _RULES, "joining", all_)
    for name, key, actions, error in (
        ("no such round", TRAINERS[0], [JoinRound(2, _STAKE)], "UnknownRound"),
        ("round 0", TRAINERS[0], [JoinRound(0, _STAKE)], "UnknownRound"),
        ("twice", TRAINERS[0], [JoinRound(1, _STAKE)] * 2, "AlreadyDone"),
        ("too little stake", TRAINERS[0], [JoinRound(1, _STAKE - 1)], "StakeTooLow"),
        ("more than there is", TRAINERS[0], [JoinRound(1, BALANCE)], "InsufficientBalance"),
        ("no money", STRANGER, [JoinRound(1, _STAKE)], "InsufficientBalance"),
    ):
        yield cases.bad(f"join: {name}", _RULES, error, "joining", ledger.sign(key, *actions))
    late = cases.on("training").sign(BUYER, JoinRound(1, _STAKE))
    yield cases.bad("join: too late", _RULES, "WrongPhase", "training", late)


def _commits(cases: Cases) -> Iterator[Json]:
    ledger, state = cases.on("training"), "training"
    key = TRAINERS[0]
    yield cases.good("commit weights", (*_RULES, *_COMMITMENT), state, ledger.sign(key, _commitment(key)))
    all_ = [ledger.sign(each, _commitment(each))[0] for each in TRAINERS]
    yield cases.good("commit weights: all, and the probes are drawn", (*_PHASES, *_PROBES), state, all_)
    for name, sender, actions, error in (
        ("twice", key, [_commitment(key)] * 2, "AlreadyDone"),
        ("zeros", key, [CommitWeights(1, ZERO_DIGEST)], "WrongShape"),
        ("not a trainer", BUYER, [_commitment(BUYER)], "NotATrainer"),
        ("no such round", key, [CommitWeights(9, digest_of("x"))], "UnknownRound"),
    ):
        yield cases.bad(f"commit weights: {name}", _RULES, error, state, ledger.sign(sender, *actions))
    early = cases.on("joined").sign(key, _commitment(key))
    yield cases.bad("commit weights: too early", _RULES, "WrongPhase", "joined", early)
    reveal = cases.on("committed").sign(key, _submission(key))
    yield cases.bad("reveal weights: too early", _RULES, "WrongPhase", "committed", reveal)


def _reveals(cases: Cases) -> Iterator[Json]:
    ledger, state = cases.on("revealing"), "revealing"
    key, other, third = TRAINERS
    clauses = (*_RULES, *_COMMITMENT)
    yield cases.good("reveal weights", clauses, state, ledger.sign(key, _submission(key)))
    both = [ledger.sign(each, _submission(each))[0] for each in (key, other)]
    yield cases.good("reveal weights: all who committed", (*clauses, *_PHASES), state, both)
    good = _submission(key)
    for name, sender, actions, error in (
        ("twice", key, [good, good], "AlreadyDone"),
        ("without a commitment", third, [_submission(third)], "NothingCommitted"),
        ("another salt", key, [replace(good, salt=digest_of("other"))], "CommitmentMismatch"),
        ("somebody else's", other, [good], "CommitmentMismatch"),
        ("a manifest of zeros", key, [replace(good, manifest=ZERO_DIGEST)], "WrongShape"),
        ("not a trainer", BUYER, [good], "NotATrainer"),
    ):
        yield cases.bad(f"reveal weights: {name}", _RULES, error, state, ledger.sign(sender, *actions))


def _submission_report(state: State, trainer: bytes, behaviour: str) -> SubmissionReport:
    if behaviour == "unavailable":
        return SubmissionReport(trainer, available=False, profile=(), sketch=())
    shift, value = (200, 50) if behaviour == "other" else (0, 100)
    profile = tuple(
        ProbeScore(0 if behaviour == "base" else _GAINS[probe.pool] + shift * (-1) ** place, 40, 60)
        for place, probe in enumerate(probes_of_round(state, 1))
    )
    return SubmissionReport(trainer, available=True, profile=profile, sketch=(value,) * SKETCH_BUCKETS)


def _report(state: State, behaviours: Mapping[bytes, str]) -> ReportScores:
    submissions = tuple(_submission_report(state, trainer, what) for trainer, what in behaviours.items())
    probes = len(probes_of_round(state, 1)) if any(one.available for one in submissions) else 0
    return ReportScores(1, submissions, tuple(ProbeScore(-3000 - place, 100, 200) for place in range(probes)))


def _behaving(*behaviours: str) -> dict[bytes, str]:
    return dict(zip((key.address for key in TRAINERS), behaviours, strict=False))


def _reports(cases: Cases) -> Iterator[Json]:
    ledger, state = cases.on("scoring"), "scoring"
    good = _report(ledger.state, _behaving("honest", "honest"))
    first = VALIDATORS[0]
    yield cases.good("report", _RULES, state, ledger.sign(first, good))
    three = [ledger.sign(key, good)[0] for key in VALIDATORS[:3]]
    yield cases.good("report: two thirds, so grace begins", (*_RULES, "11.5/6"), state, three)
    profile, sketch = good.submissions[0].profile, good.submissions[0].sketch
    changed = {
        "a score too few": replace(good.submissions[0], profile=profile[:-1]),
        "255 sketch values": replace(good.submissions[0], sketch=sketch[:-1]),
        "scores of what isn't available": replace(good.submissions[0], available=False),
    }
    wrong = {name: replace(good, submissions=(one, good.submissions[1])) for name, one in changed.items()}
    wrong |= {
        "a trainer left out": replace(good, submissions=good.submissions[:1]),
        "trainers in the wrong order": replace(good, submissions=good.submissions[::-1]),
        "no scores of the base": replace(good, base=()),
        "a trainer that hasn't revealed": _report(ledger.state, _behaving("honest", "honest", "honest")),
        "scores of the base for nothing": replace(
            _report(ledger.state, _behaving("unavailable", "unavailable")), base=good.base
        ),
    }
    for name, action in wrong.items():
        yield cases.bad(f"report: {name}", _RULES, "WrongShape", state, ledger.sign(first, action))
    for name, key, actions, error in (
        ("twice", first, [good, good], "AlreadyDone"),
        ("not a validator", TRAINERS[0], [good], "NotAValidator"),
        ("no such round", first, [replace(good, round=2)], "UnknownRound"),
    ):
        yield cases.bad(f"report: {name}", _RULES, error, state, ledger.sign(key, *actions))
    early = cases.on("revealing").sign(first, replace(good, submissions=(), base=()))
    yield cases.bad("report: too early", _RULES, "WrongPhase", "revealing", early)


def _verdicts(cases: Cases) -> Iterator[Json]:
    ledger, state = cases.on("scoring"), "scoring"
    for name, behaviours, clauses in (
        ("both are alike", ("honest", "honest"), _ACCEPTED),
        ("one has learned nothing", ("honest", "base"), _ACCEPTED),
        ("one can't be retrieved", ("unavailable", "honest"), _ACCEPTED),
        ("they differ, and none has more stake", ("honest", "other"), _VOID),
        ("none has learned anything", ("base", "base"), _VOID),
        ("none can be retrieved", ("unavailable", "unavailable"), _VOID),
    ):
        report = _report(ledger.state, _behaving(*behaviours))
        reports = [ledger.sign(key, report)[0] for key in VALIDATORS]
        yield cases.good(f"verdict: {name}", (*_VERDICT, *clauses), state, reports)
