"""Traces: what is recorded replays, what is changed is found where it was changed, and what is no trace is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from consensus_network import HEIGHT, Network, block, proposal_in, validator_set, vote_by
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.ballots import Proposal, Vote, VoteKind
from deepshard.consensus import core, events, trace_forms
from deepshard.consensus import replay as replaying
from deepshard.consensus.replay import (
    MalformedTrace,
    Recorder,
    Summary,
    Trace,
    TraceStep,
    decode_trace,
    encode_trace,
    record,
    replay,
    trace_from_json,
    trace_to_json,
)
from deepshard.consensus.types import CommitCertificate, CommitSignature, LockProof, LockProofVote, SafetyState, Step
from deepshard.primitives import ZERO_DIGEST, address_of

SPEC = Path(__file__).parents[2] / "protocol-spec"
PAGE = (SPEC / "consensus-trace.md").read_text(encoding="utf-8")
SET = validator_set(1, 1, 1, 1)
PREVOTE = VoteKind.PREVOTE

# -- any values --------------------------------------------------------------------------------------------------------

heights = st.one_of(st.integers(0, 3), st.integers(2**53 - 2, 2**53 + 2), st.just(2**62))
rounds = st.one_of(st.integers(0, 4), st.just(2**31 - 1))
valid_rounds = st.one_of(st.just(-1), rounds)
ids = st.sampled_from([ZERO_DIGEST, block("a"), block("b")])
addresses = st.sampled_from([one.address for one in SET.validators] + [bytes(20)])
signatures = st.sampled_from([bytes(64), bytes(range(64))])
steps = st.sampled_from(Step)
kinds = st.sampled_from(VoteKind)
votes = st.builds(Vote, kinds, heights, rounds, valid_rounds, ids, addresses, signatures)
proposals = st.builds(Proposal, heights, rounds, valid_rounds, ids, addresses, signatures)
proof_votes = st.lists(st.builds(LockProofVote, addresses, valid_rounds, signatures), max_size=4).map(tuple)
proofs = st.builds(LockProof, heights, rounds, ids, proof_votes)
safeties = st.builds(SafetyState, heights, rounds, steps, valid_rounds, ids, valid_rounds, ids)
members = st.sampled_from([SET, validator_set(5, 2**60, 3), validator_set(1)])
starts = st.builds(events.StartHeight, heights, members, st.none() | addresses, st.none() | safeties)
commits = st.lists(st.builds(CommitSignature, addresses, signatures), max_size=4).map(tuple)
inputs: dict[type[events.Input], st.SearchStrategy[Any]] = {
    events.StartHeight: starts,
    events.ProposalReceived: st.builds(events.ProposalReceived, proposals, st.booleans()),
    events.VoteReceived: st.builds(events.VoteReceived, votes),
    events.LockProofReceived: st.builds(events.LockProofReceived, proofs),
    events.TimeoutElapsed: st.builds(events.TimeoutElapsed, steps, heights, rounds),
    events.ValueBuilt: st.builds(events.ValueBuilt, heights, rounds, ids),
}
effects: dict[type[events.Effect], st.SearchStrategy[Any]] = {
    events.BuildValue: st.builds(events.BuildValue, heights, rounds),
    events.Propose: st.builds(events.Propose, heights, rounds, valid_rounds, ids),
    events.CastVote: st.builds(events.CastVote, kinds, heights, rounds, ids, valid_rounds),
    events.ScheduleTimeout: st.builds(events.ScheduleTimeout, steps, heights, rounds),
    events.Decide: st.tuples(heights, rounds, ids, commits).map(
        lambda parts: events.Decide(*parts[:3], CommitCertificate(*parts))
    ),
    events.Equivocation: st.builds(events.Equivocation, votes, votes),
    events.ProposalEquivocation: st.builds(events.ProposalEquivocation, proposals, proposals),
    events.LockForgotten: st.builds(events.LockForgotten, votes, votes),
}
summaries = st.builds(Summary, safeties, st.none() | ids.filter(any))


def trace_of(start: events.StartHeight, *others: TraceStep) -> Trace:
    return Trace("any", SET, SET.validators[0].address, (TraceStep(start, None, None), *others), "a test")


def test_every_kind_of_input_and_effect_is_tried() -> None:
    assert set(inputs) == set(get_args(events.Input))
    assert set(effects) == set(get_args(events.Effect))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), start=starts, state=st.none() | summaries)
@pytest.mark.parametrize("kind", [*inputs, *effects])
def test_every_value_comes_back_from_json(kind: type, data: st.DataObject, start: Any, state: Summary | None) -> None:
    of_input = kind in inputs
    event = data.draw(inputs[kind] if of_input else inputs[events.ValueBuilt])
    answer = None if of_input else tuple(data.draw(st.lists(effects[kind], max_size=2)))
    trace = trace_of(start, TraceStep(event, answer, state))
    assert decode_trace(encode_trace(trace)) == trace
    assert trace_from_json(json.loads(json.dumps(trace_to_json(trace)))) == trace
    numbers: list[int] = []
    json.loads(encode_trace(trace), parse_int=lambda digits: numbers.append(int(digits)))
    assert max(numbers) < 2**53


@settings(max_examples=150, deadline=None)
@given(start=starts, fed=st.lists(st.one_of(*inputs.values()), max_size=12))
def test_no_trace_is_too_odd_to_be_replayed(start: Any, fed: list[events.Input]) -> None:
    trace = record("any", [start, *fed])
    assert list(replay(trace)) == []
    assert list(replay(trace_of(start, *(TraceStep(event, None, None) for event in fed)))) == []


# -- recorded runs -----------------------------------------------------------------------------------------------------


def traces_of(seed: int, steps: int, byzantine: int | None) -> list[Trace]:
    network = Network(seed, byzantine=byzantine)
    network.chaos(steps)
    network.calm(8)
    traces = [recorder.trace() for recorder in network.recorders.values()]
    return [trace for trace in traces if trace is not None]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(0, 300), byzantine=st.none() | st.integers(0, 3))
def test_what_a_node_went_through_replays_without_a_difference(seed: int, steps: int, byzantine: int | None) -> None:
    traces = traces_of(seed, steps, byzantine)
    assert len(traces) == 4 - (byzantine is not None)
    for trace in traces:
        read = decode_trace(encode_trace(trace))
        assert read == trace
        assert list(replay(read)) == []
        assert any(step.state is not None and step.state.decision is not None for step in trace.steps)


def leaves(value: Any, path: str) -> list[tuple[str, Any, Any]]:
    """Path, container and key of all that isn't a container itself."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[str, Any, Any]] = []
    for key, inner in pairs:
        place = f"{path}.{key}" if isinstance(value, dict) else f"{path}[{key}]"
        found += leaves(inner, place) if isinstance(inner, dict | list) else [(place, value, key)]
    return found


def another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case None:
            return "ab" * 32
        case "propose" | "prevote":
            return "precommit"
        case "precommit":
            return "prevote"
        case _:
            return value[::-1] if value != value[::-1] else value.replace(value[0], "0")


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 50), data=st.data())
def test_a_changed_effect_or_state_is_found_where_it_was_changed(seed: int, data: st.DataObject) -> None:
    trace = trace_to_json(data.draw(st.sampled_from(traces_of(seed, 120, seed % 4))))
    number = data.draw(st.integers(0, len(trace["steps"]) - 1))
    step = trace["steps"][number]
    places = leaves(step["state"], f"$.steps[{number}].state") + leaves(step["effects"], f"$.steps[{number}].effects")
    path, holder, key = data.draw(st.sampled_from([place for place in places if not place[0].endswith(".type")]))
    before = holder[key]
    holder[key] = another(before)
    found = list(replay(trace_from_json(trace)))
    assert [(difference.step, difference.path) for difference in found] == [(number, path)]
    assert (found[0].expected, found[0].got) == (holder[key], before)


def test_missing_and_additional_effects_are_differences() -> None:
    start = events.StartHeight(HEIGHT, SET, SET.validators[0].address)
    trace = trace_to_json(record("test", [start, events.TimeoutElapsed(Step.PROPOSE, HEIGHT, 0)]))
    fewer, more, other = (copy.deepcopy(trace) for _ in range(3))
    vote = fewer["steps"][1]["effects"].pop()
    more["steps"][1]["effects"].append(vote)
    timeout = {"type": "schedule-timeout", "step": "propose", "height": HEIGHT, "round": 0}
    other["steps"][1]["effects"] = [timeout]
    differences = [list(replay(trace_from_json(one))) for one in (fewer, more, other)]
    assert [[(one.path, one.expected, one.got) for one in found] for found in differences] == [
        [("$.steps[1].effects[0]", None, vote)],
        [("$.steps[1].effects[1]", vote, None)],
        [("$.steps[1].effects[0]", timeout, vote)],
    ]


def test_what_a_trace_leaves_out_is_not_compared() -> None:
    trace = record("test", [events.StartHeight(HEIGHT, SET, None), proposal_in(SET, 0, block("a"))])
    wrong = Summary(SafetyState(HEIGHT, 9, Step.PROPOSE, -1, ZERO_DIGEST, -1, ZERO_DIGEST), None)
    first, second = trace.steps
    assert list(replay(replace(trace, steps=(replace(first, effects=None, state=None), second)))) == []
    found = list(replay(replace(trace, steps=(first, replace(second, effects=None, state=wrong)))))
    assert [one.path for one in found] == ["$.steps[1].state.round", "$.steps[1].state.step"]


def test_a_bug_of_another_core_shows_in_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[events.Input] = [
        events.StartHeight(
            HEIGHT, SET, SET.validators[1].address, SafetyState(HEIGHT, 1, Step.PROPOSE, 0, block("a"), 0, block("a"))
        ),
        proposal_in(SET, 1, block("b")),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(core, "_lock_allows", lambda *_: True)
        buggy = record("test", fed)
    (found,) = replay(buggy)
    assert (found.step, found.path, found.expected, found.got) == (
        1,
        "$.steps[1].effects[0].block_id",
        block("b").hex(),
        None,
    )


def test_nothing_is_recorded_before_a_height_begins() -> None:
    recorder = Recorder("test")
    state = core.start_height(events.StartHeight(HEIGHT, SET, None)).state
    event = vote_by(SET, 0, PREVOTE, 0, block("a"))
    recorder.took(event, core.apply(state, event))
    assert recorder.trace() is None


# -- what is refused ---------------------------------------------------------------------------------------------------

GOOD = trace_to_json(
    record("test", [events.StartHeight(HEIGHT, SET, None), vote_by(SET, 0, PREVOTE, 0, block("a"))], "a test")
)


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    trace = copy.deepcopy(GOOD)
    holder: Any = trace
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return trace


@pytest.mark.parametrize(
    ("at", "value", "path"),
    [
        (("colour",), "blue", "$"),
        (("format",), "deepshard consensus trace v2", "$.format"),
        (("steps",), [], "$.steps"),
        (("steps", 0), GOOD["steps"][1], "$.steps[0].input"),
        (("source",), "x" * 1001, "$.source"),
        (("validators",), GOOD["validators"][::-1], "$.validators"),
        (("validators",), [], "$.validators"),
        (("validators", 2, "power"), 0, "$.validators"),
        (("validators", 2, "power"), "4611686018427387905", "$.validators"),
        (("validators", 2, "power"), "01", "$.validators[2].power"),
        (("validators", 2, "address"), "00" * 20, "$.validators"),
        (("steps", 0, "input", "safety"), {}, "$.steps[0].input.safety"),
        (("steps", 0, "input", "validators"), GOOD["validators"][::-1], "$.steps[0].input"),
        (("steps", 1, "input", "type"), "guess", "$.steps[1].input.type"),
        (("steps", 1, "input", "more"), 1, "$.steps[1].input"),
        (("steps", 1, "more"), 1, "$.steps[1]"),
        (("steps", 1, "input", "vote", "more"), 1, "$.steps[1].input.vote"),
        (("steps", 1, "input", "vote", "kind"), 1, "$.steps[1].input.vote.kind"),
        (("steps", 1, "input", "vote", "round"), 0.5, "$.steps[1].input.vote.round"),
        (("steps", 1, "input", "vote", "round"), True, "$.steps[1].input.vote.round"),
        (("steps", 1, "input", "vote", "round"), -1, "$.steps[1].input.vote.round"),
        (("steps", 1, "input", "vote", "valid_round"), -2, "$.steps[1].input.vote.valid_round"),
        (("steps", 1, "input", "vote", "height"), "4611686018427387905", "$.steps[1].input"),
        (("steps", 1, "input", "vote", "height"), "7\n", "$.steps[1].input.vote.height"),
        (("steps", 1, "input", "vote", "block_id"), "AB" * 32, "$.steps[1].input.vote.block_id"),
        (("steps", 1, "input", "vote", "block_id"), "ab" * 31 + "a\n", "$.steps[1].input.vote.block_id"),
        (("steps", 1, "input", "vote", "block_id"), "ab" * 33, "$.steps[1].input.vote.block_id"),
        (("steps", 1, "input", "vote", "validator"), None, "$.steps[1].input.vote.validator"),
        (("steps", 1, "state", "height"), "9223372036854775807", "$.steps[1].state"),
        (
            ("steps", 1, "effects"),
            [{"type": "build-value", "height": "9223372036854775807", "round": 0}],
            "$.steps[1].effects",
        ),
        (("steps", 1, "state", "step"), "commit", "$.steps[1].state.step"),
        (("steps", 1, "effects"), [{"type": "build-value", "height": 1}], "$.steps[1].effects[0]"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_place(at: tuple[str | int, ...], value: Any, path: str) -> None:
    wrong = changed(at, value)
    with pytest.raises(MalformedTrace) as from_values:
        trace_from_json(wrong)
    with pytest.raises(MalformedTrace) as from_text:
        decode_trace(json.dumps(wrong).encode())
    assert {from_values.value.path, from_text.value.path} == {path}
    assert str(from_text.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        encode_trace(trace_from_json(GOOD)).replace(b"a test", b"\xff\xff\xff\xff\xff\xff"),
        encode_trace(trace_from_json(GOOD))[:-4],
        b"[" * 1_000_000,
        b'{"steps":' * 100_000,
        b'{"steps":[{"input":' + b'{"type":' * 100_000,
    ],
)
def test_what_is_no_json_or_too_deep_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedTrace):
        decode_trace(data)


def test_too_long_a_file_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_trace(trace_from_json(GOOD))
    monkeypatch.setattr(replaying, "TRACE_BYTES_MAX", len(data) - 1)
    with pytest.raises(MalformedTrace, match=f"{len(data)} bytes, the limit is {len(data) - 1}"):
        decode_trace(data)


def test_integers_may_be_texts_everywhere() -> None:
    texts = changed(("steps", 1, "input", "vote", "height"), str(HEIGHT))
    texts["validators"][0]["power"] = "1"
    assert trace_from_json(texts) == trace_from_json(GOOD)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_example_of_the_page_replays_and_covers_a_height() -> None:
    text = PAGE.partition("```json\n")[2].partition("```")[0]
    trace = decode_trace(text.encode())
    assert list(replay(trace)) == []
    assert all(step.effects is not None and step.state is not None for step in trace.steps)
    assert trace.steps[-1].state is not None
    assert trace.steps[-1].state.decision == trace.steps[-1].state.safety.locked_id


def test_the_page_lists_every_type_with_its_fields() -> None:
    tables = [line.split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    listed = {
        row[1].strip(" `"): {field.strip(" `?") for field in row[2].split(",")} for row in tables if len(row) == 5
    }
    expected = {}
    for form in (*get_args(trace_forms.Input), *get_args(trace_forms.Effect)):
        fields = msgspec.structs.fields(form)
        expected[form.__struct_config__.tag] = {field.name for field in fields}
    assert {name: listed.get(name) for name in expected} == expected


def test_the_keys_of_the_page_belong_to_its_addresses() -> None:
    rows = [line.split("|")[1:3] for line in PAGE.splitlines() if line.startswith("| ") and len(line.split("|")) == 4]
    pairs = [(a.strip(), key.strip()) for a, key in rows if len(a.strip()) == 40]
    assert len(pairs) == 7
    assert [address for address, _ in pairs] == sorted(address_of(bytes.fromhex(key)).hex() for _, key in pairs)
    assert [address_of(bytes.fromhex(key)).hex() for _, key in pairs] == [address for address, _ in pairs]


def test_the_schema_is_that_of_the_forms() -> None:
    text = json.dumps(trace_forms.json_schema(), indent=1) + "\n"
    written = (SPEC / "consensus-trace.schema.json").read_text(encoding="utf-8")
    assert written == text, "write json.dumps(trace_forms.json_schema(), indent=1) and a newline there"
