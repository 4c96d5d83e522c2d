"""Which texts submissions are measured on, and how these are perturbed: the same on every machine.

Perturbing as in DetectGPT (arXiv 2301.11305, section 3) replaces spans; there a language model proposes the
replacements, here they are tokens drawn from a table, so that no float and no second model can make two validators
disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deepshard.ledger.params import ProbePlan
from deepshard.ledger.records import Probe, ProbePool
from deepshard.ledger.sampling import Draws
from deepshard.ledger.state import View
from deepshard.primitives import tagged_hash

PROBE_POOLS: Final[tuple[ProbePool, ...]] = ("batch", "heldout", "rejected", "general")


@dataclass(frozen=True, slots=True)
class ProbePools:
    """Content addresses to draw from, by pool."""

    batch: Sequence[bytes]
    heldout: Sequence[bytes]
    rejected: Sequence[bytes]
    general: Sequence[bytes]


def draw_probes(pools: ProbePools, plan: ProbePlan, seed: bytes) -> tuple[Probe, ...]:
    """Probes in the order batch, heldout, rejected, general, and within a pool in the order drawn.

    Each pool is sampled without replacement from its own stream, `sampling.Draws(seed, "probes " + pool)`; a pool with
    fewer texts than the plan asks for gives all it has.
    """
    probes: list[Probe] = []
    for name in PROBE_POOLS:
        pool: Sequence[bytes] = getattr(pools, name)
        wanted: int = getattr(plan, name)
        places = Draws(seed, f"probes {name}").sample(len(pool), wanted)
        probes += (Probe(name, pool[place]) for place in places)
    return tuple(probes)


def probes_of_round(view: View, number: int) -> tuple[Probe, ...]:
    """Probes of a round as they were drawn at the close of its commits; none before."""
    scoring = view.scoring(number)
    return scoring.probes if scoring is not None else ()


def perturb(
    tokens: Sequence[int], table: Sequence[int], *, plan: ProbePlan, seed: bytes, probe: int, index: int
) -> tuple[int, ...]:
    """Perturbation number `index` of probe number `probe`, as long as `tokens`; position 0 stays as it is.

    Args:
        tokens: token ids of the probe text, already cut to `plan.tokens_max`.
        table: replacements to draw from: the tokens of all probes, concatenated in probe order.
        plan: `replaced_bp` of the tokens are replaced, rounded up, in spans of `span_tokens`.
        seed: the round's probe seed.
        probe: index of the probe in `draw_probes`.
        index: number of the perturbation, from 0.

    The stream is `sampling.Draws(tagged_hash("perturb", seed, probe, index), "perturb draws")`, both numbers as four
    little-endian bytes. With n tokens and spans of s:

    1. `offset = below(s)`. Positions 1 to n-1 are cut into spans: the first has `offset` positions (none if it is 0),
       each further one s, the last what is left.
    2. The spans are put in the order of `permutation(number of spans)`.
    3. Positions are taken span by span, ascending within a span, until ceil(n * replaced_bp / 10000) are taken or all.
    4. For each taken position, ascending: `place = below(len(table))`; from there on, cyclically, the first entry of
       the table that differs from the token there replaces it. A table without such an entry leaves the token.
    """
    count = len(tokens)
    wanted = min(-(-count * plan.replaced_bp // 10_000), count - 1)
    if wanted <= 0 or not table:
        return tuple(tokens)
    number = (probe.to_bytes(4, "little"), index.to_bytes(4, "little"))
    draws = Draws(tagged_hash("perturb", seed, *number), "perturb draws")
    taken = sorted(_positions(draws, count, max(1, plan.span_tokens), wanted))
    distinct = set(table)
    replaced = list(tokens)
    for position in taken:
        place = draws.below(len(table))
        if distinct != {tokens[position]}:
            while table[place] == tokens[position]:
                place = (place + 1) % len(table)
            replaced[position] = table[place]
    return tuple(replaced)


def _positions(draws: Draws, count: int, span: int, wanted: int) -> list[int]:
    offset = draws.below(span)
    starts = [1, *range(1 + offset, count, span)] if offset else list(range(1, count, span))
    ends = [*starts[1:], count]
    positions: list[int] = []
    for which in draws.permutation(len(starts)):
        positions += range(starts[which], ends[which])
        if len(positions) >= wanted:
            break
    return positions[:wanted]
