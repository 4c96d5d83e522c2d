"""Checks of `traces.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.consensus.replay import record, trace_from_json, trace_to_json


def check(case: Fields) -> Json:
    """Feed the trace's inputs again: the same trace has to come of it."""
    trace = trace_from_json(case["trace"])
    return {"trace": trace_to_json(record(trace.chain_id, (step.input for step in trace.steps), trace.source))}
