"""Traces of the core: what it was fed, what it answered and where it stood; recorded, written as JSON, fed again.

The core is a function, so a trace of its inputs is all of its history: `replay` feeds them again and says where effects
or states differ from those that stand in the trace. Other tools' traces are converted to the form that
`protocol-spec/consensus-trace.md` describes; they need neither signatures nor all of the effects and states.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from deepshard.consensus import core
from deepshard.consensus import trace_forms as forms
from deepshard.consensus import trace_values as values
from deepshard.consensus.events import Effect, Input, StartHeight
from deepshard.consensus.types import SafetyState
from deepshard.consensus.validators import ValidatorSet
from deepshard.errors import UsageError
from deepshard.limits import MIB

TRACE_BYTES_MAX: Final = 256 * MIB
"""Longer files are refused before anything is read."""


class MalformedTrace(UsageError):
    """What is called a trace isn't in the form of one.

    Attributes:
        path: the JSON path of what is wrong, such as `$.steps[3].input.round`.
    """

    def __init__(self, path: str, fault: str) -> None:
        super().__init__(f"{path}: {fault}")
        self.path = path


@dataclass(frozen=True, slots=True)
class Summary:
    """What a trace keeps of a state."""

    safety: SafetyState
    decision: bytes | None


@dataclass(frozen=True, slots=True)
class TraceStep:
    """An input and, where they are known, its effects and the state after it."""

    input: Input
    effects: tuple[Effect, ...] | None
    state: Summary | None


@dataclass(frozen=True, slots=True)
class Trace:
    """What one core went through, from a `StartHeight` on.

    Attributes:
        source: who recorded it, for people.
        validators: those of the first height, and of the others where they are the same; likewise `me`.
    """

    chain_id: str
    validators: ValidatorSet
    me: bytes | None
    steps: tuple[TraceStep, ...]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the core does something else than a trace says: the place in its JSON, what stands there, what came.

    `None` stands for what isn't there, and for nil.
    """

    step: int
    path: str
    expected: Any
    got: Any


class Recorder:
    """Gathers a trace while a host runs the core."""

    def __init__(self, chain_id: str, source: str = "") -> None:
        self._chain_id, self._source = chain_id, source
        self._steps: list[TraceStep] = []

    def took(self, event: Input, transition: core.Transition) -> None:
        """The core has taken an input. What comes before the first `StartHeight` isn't recorded."""
        if self._steps or isinstance(event, StartHeight):
            self._steps.append(TraceStep(event, transition.effects, summary_of(transition.state)))

    def trace(self) -> Trace | None:
        """Everything so far; None if no height was begun."""
        if not self._steps:
            return None
        start = self._steps[0].input
        assert isinstance(start, StartHeight)
        return Trace(self._chain_id, start.validators, start.me, tuple(self._steps), self._source)


def summary_of(state: core.State) -> Summary:
    """What a trace keeps of a state."""
    return Summary(state.safety(), state.decision)


def record(chain_id: str, inputs: Iterable[Input], source: str = "") -> Trace:
    """The trace of a core that is fed these inputs, of which the first is a `StartHeight`."""
    recorder = Recorder(chain_id, source)
    for event, transition in _run(inputs):
        recorder.took(event, transition)
    trace = recorder.trace()
    assert trace is not None
    return trace


def replay(trace: Trace) -> Iterator[Difference]:
    """Feed a trace's inputs to the core: all differences, in order, from effects and states that the trace has.

    The core goes on from its own state after a difference, not from the trace's.
    """
    fed = _run(step.input for step in trace.steps)
    for number, (step, (_, transition)) in enumerate(zip(trace.steps, fed, strict=True)):
        if step.effects is not None:
            said, came = _effects_json(step.effects), _effects_json(transition.effects)
            yield from _differences(number, f"$.steps[{number}].effects", said, came)
        if step.state is not None and step.state != (summary := summary_of(transition.state)):
            yield from _differences(number, f"$.steps[{number}].state", _state_json(step.state), _state_json(summary))


def _run(inputs: Iterable[Input]) -> Iterator[tuple[Input, core.Transition]]:
    state: core.State | None = None
    for event in inputs:
        if state is None:
            assert isinstance(event, StartHeight)
            transition = core.start_height(event)
        else:
            transition = core.apply(state, event)
        state = transition.state
        yield event, transition


def _state_json(summary: Summary) -> Any:  # noqa: ANN401  # JSON
    return _json(values.write_state(summary.safety, summary.decision))


def _effects_json(effects: tuple[Effect, ...]) -> Any:  # noqa: ANN401  # JSON
    return _json(tuple(map(values.write_effect, effects)))


def _json(form: object) -> Any:  # noqa: ANN401  # JSON
    return msgspec.json.decode(msgspec.json.encode(form))


def _differences(step: int, path: str, expected: Any, got: Any) -> Iterator[Difference]:  # noqa: ANN401  # JSON
    if isinstance(expected, dict) and isinstance(got, dict) and expected.get("type") == got.get("type"):
        for key in dict.fromkeys((*expected, *got)):
            yield from _differences(step, f"{path}.{key}", expected.get(key), got.get(key))
    elif isinstance(expected, list) and isinstance(got, list):
        for place in range(max(len(expected), len(got))):
            there = [listed[place] if place < len(listed) else None for listed in (expected, got)]
            yield from _differences(step, f"{path}[{place}]", *there)
    elif expected != got:
        yield Difference(step, path, expected, got)


# -- JSON --------------------------------------------------------------------------------------------------------------


def trace_to_json(trace: Trace) -> dict[str, Any]:
    """The trace as JSON values."""
    value: dict[str, Any] = _json(_write(trace))
    return value


def trace_from_json(value: object) -> Trace:
    """Invert `trace_to_json`.

    Raises:
        MalformedTrace: it isn't in the form of a trace.
    """
    try:
        form = msgspec.convert(value, forms.Trace)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _malformed(error, value) from None
    return _read(form)


def encode_trace(trace: Trace) -> bytes:
    """The trace as a file: JSON with one step a line."""
    form = _write(trace)
    head = msgspec.json.encode(msgspec.structs.replace(form, steps=()))
    assert head.endswith(b"[]}")
    lines = b",\n".join(map(msgspec.json.encode, form.steps))
    return head.removesuffix(b"]}") + b"\n" + lines + b"\n]}\n"


def decode_trace(data: bytes) -> Trace:
    """Read a file.

    Raises:
        MalformedTrace: it is too long, no JSON, or not in the form of a trace.
    """
    if len(data) > TRACE_BYTES_MAX:
        raise MalformedTrace("$", f"{len(data)} bytes, the limit is {TRACE_BYTES_MAX}")
    try:
        try:
            form = msgspec.json.decode(data, type=forms.Trace)
        except msgspec.ValidationError as error:
            raise _malformed(error, msgspec.json.decode(data)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedTrace("$", str(error)) from None
    return _read(form)


def _malformed(error: Exception, value: object) -> MalformedTrace:
    """The path that msgspec puts behind what is wrong, if it knows one, in front."""
    fault, _, path = str(error).rpartition(" - at `")
    if not fault:
        return MalformedTrace("$", str(error))
    return MalformedTrace("$" + _place(value, path.removeprefix("$").removesuffix("`")), fault)


def _place(value: Any, path: str) -> str:  # noqa: ANN401  # JSON
    """A path of msgspec's, which says `[...]` for any element, with the number of the first that is wrong."""
    head, dots, tail = path.partition("[...]")
    if not dots:
        return path
    *_, name = names = head.split(".")
    for key in names[1:]:
        value = value[key]
    for number, element in enumerate(value):
        try:
            msgspec.convert(element, _ELEMENTS[name])
        except msgspec.ValidationError:
            return f"{head}[{number}]{_place(element, tail)}"
    return path


_ELEMENTS: Final[dict[str, Any]] = {
    "steps": forms.TraceStep,
    "effects": forms.Effect,
    "validators": forms.Validator,
    "votes": forms.LockProofVote,
    "certificate": forms.CommitSignature,
}
"""What is in the lists of a trace, by their names."""


def _write(trace: Trace) -> forms.Trace:
    return forms.Trace(
        format=forms.FORMAT,
        source=trace.source,
        chain_id=trace.chain_id,
        validators=values.write_validators(trace.validators),
        me=values.write_me(trace.me),
        steps=tuple(_write_step(step, trace) for step in trace.steps),
    )


def _write_step(step: TraceStep, trace: Trace) -> forms.TraceStep:
    return forms.TraceStep(
        values.write_input(step.input, trace.validators, trace.me),
        None if step.effects is None else tuple(map(values.write_effect, step.effects)),
        None if step.state is None else values.write_state(step.state.safety, step.state.decision),
    )


def _read(form: forms.Trace) -> Trace:
    try:
        validators = values.read_validators(form.validators)
    except ValueError as error:
        raise MalformedTrace("$.validators", str(error)) from None
    if not isinstance(form.steps[0].input, forms.StartHeight):
        raise MalformedTrace("$.steps[0].input", "a trace begins with `start-height`")
    me = values.read_me(form.me)
    steps = tuple(_read_step(number, step, validators, me) for number, step in enumerate(form.steps))
    return Trace(form.chain_id, validators, me, steps, form.source)


def _read_step(number: int, form: forms.TraceStep, validators: ValidatorSet, me: bytes | None) -> TraceStep:
    place = "input"
    try:
        event = values.read_input(form.input, validators, me)
        place = "effects"
        effects = None if form.effects is None else tuple(map(values.read_effect, form.effects))
        place = "state"
        state = None if form.state is None else Summary(*values.read_state(form.state))
    except ValueError as error:
        raise MalformedTrace(f"$.steps[{number}].{place}", str(error)) from None
    return TraceStep(event, effects, state)
