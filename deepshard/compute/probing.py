"""Probes through a causal language model of transformers: packed hidden states, then `perturbation_score` on its head.

Lanes take packs and then probes, each with one thread for its operations. A probe's numbers come from its own packs and
from one call of the kernel on its own rows, so they are the same bytes beside any other probes and on any number of
threads.

Shape suffixes: M rows, H hidden width, R row numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import torch

from deepshard.compute.jobs import TextScore
from deepshard.compute.models import head_weight
from deepshard.compute.packing import Pack, PackedModel, packs_of
from kernels.cpu_exact_products import as_bf16, units
from kernels.cpu_lanes import in_lanes
from kernels.perturbation_score import PerturbationScores, perturbation_score

Sequences = tuple[tuple[int, ...], ...]
"""A text's token numbers and its perturbations'."""

OPERATOR: Final = "deepshard::perturbation_score"
_BATCH_BYTES: Final = 64 * 1024 * 1024
"""Hidden states that wait for the head at a time."""
NOTHING: Final = TextScore(tokens=0, log_prob=0.0, conditional_curvature=0.0, perturbation_curvature=0.0)


class Scorer:
    """Scores probes under one model.

    Attributes:
        path: the operator, where it runs and how the model's states are computed, for people.
        words: the vocabulary's size.
    """

    def __init__(self, model: Any) -> None:
        self._packed = PackedModel(model)
        head_VH = head_weight(model).detach()
        exact_VH = as_bf16(head_VH) if units() else None
        self._head_VH = head_VH if exact_VH is None else exact_VH
        self.words = self._head_VH.shape[0]
        self._logits = logit_numbers(model.config.get_text_config())
        self.path = f"{OPERATOR} ({self._head_VH.device.type}, {self._packed.path})"

    def batches(self, probes: Sequence[Sequences]) -> Iterator[Sequence[Sequences]]:
        """The probes in order, as many at a time as there is memory for their hidden states."""
        row_bytes = 4 * self._head_VH.shape[1]
        begin = held = 0
        for place, probe in enumerate(probes):
            size = row_bytes * sum(map(len, probe))
            if place - begin > 1 and held + size > _BATCH_BYTES:
                yield probes[begin:place]
                begin, held = place, 0
            held += size
        if begin < len(probes):
            yield probes[begin:]

    def scores(self, probes: Sequence[Sequences]) -> list[TextScore]:
        """A score for each probe; a text of fewer than two tokens has nothing to score, and scores 0."""
        found = self.measure([probe for probe in probes if len(probe[0]) > 1])
        return [text_score(probe, next(found)) if len(probe[0]) > 1 else NOTHING for probe in probes]

    def measure(self, probes: Sequence[Sequences]) -> Iterator[PerturbationScores]:
        """The kernel's numbers for each probe, whose sequences have two tokens or more each."""
        packs = [packs_of([sequence[:-1] for sequence in probe]) for probe in probes]
        places = [(probe, number) for probe, own in enumerate(packs) for number in range(len(own))]
        longest_first = sorted(places, key=lambda place: -len(packs[place[0]][place[1]].tokens_N))
        found = in_lanes(lambda place: self._packed.hidden_states(packs[place[0]][place[1]]), longest_first)
        hidden = dict(zip(longest_first, found, strict=True))

        def score(probe: int) -> PerturbationScores:
            own = packs[probe]
            return self._score(probes[probe], own, [hidden[probe, number] for number in range(len(own))])

        by_size = sorted(range(len(probes)), key=lambda probe: -sum(map(len, probes[probe])))
        scored = dict(zip(by_size, in_lanes(score, by_size), strict=True))
        return iter([scored[probe] for probe in range(len(probes))])

    @torch.inference_mode()
    def _score(self, probe: Sequences, packs: Sequence[Pack], hidden: Sequence[torch.Tensor]) -> PerturbationScores:
        rows = rows_of(probe, packs)
        return perturbation_score(
            torch.cat(list(hidden)),
            self._head_VH,
            rows.targets_M,
            rows.rows_R,
            rows.sequence_starts,
            rows.probe_starts,
            **self._logits,
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the tokens of a probe are among the rows of its packs, as `perturbation_score` takes it."""

    targets_M: torch.Tensor  # noqa: N815  # a shape suffix
    rows_R: torch.Tensor  # noqa: N815
    sequence_starts: torch.Tensor
    probe_starts: torch.Tensor


def rows_of(probe: Sequences, packs: Sequence[Pack]) -> Rows:
    """Rows of a probe, whose packs lie one after the other."""
    offsets = [0, *accumulate(len(pack.tokens_N) for pack in packs)]
    rows = [
        [offset + row for row in own] for offset, pack in zip(offsets, packs, strict=False) for own in pack.sequences
    ]
    targets = [0] * offsets[-1]
    for sequence, own in zip(probe, rows, strict=True):
        for row, target in zip(own, sequence[1:], strict=True):
            targets[row] = target
    return Rows(
        targets_M=torch.tensor(targets),
        rows_R=torch.tensor([row for own in rows for row in own]),
        sequence_starts=torch.tensor([0, *accumulate(map(len, rows))]),
        probe_starts=torch.tensor([0, len(probe)]),
    )


def logit_numbers(config: Any) -> dict[str, float]:
    """What a model does to its logits after the head (Gemma 2 and 3, Cohere, Granite)."""
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    return {"scale": float(scale), "softcap": float(getattr(config, "final_logit_softcapping", None) or 0.0)}


def text_score(probe: Sequences, found: PerturbationScores) -> TextScore:
    """A probe's numbers as a curator and a validator use them."""
    return TextScore(
        tokens=len(probe[0]) - 1,
        log_prob=float(found.log_prob[0]),
        conditional_curvature=float(found.conditional[0]),
        perturbation_curvature=float(found.discrepancy[0]),
    )
