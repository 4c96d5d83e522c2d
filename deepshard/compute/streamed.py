"""Layer-streamed scoring: probes through a model that is larger than the memory, its weights read once for all of them.

One decoder layer is in memory while the next is read and decoded in the background; all packs of all probes go through
it. What is kept are the hidden states of every row; where those exceed the limit, probes are taken in batches, in their
order, each with a pass of its own over the weights. The embedding yields the rows of the tokens that occur, the head
comes in pieces of words (`StreamedMoments`).

The scores are the bytes that `probing.Scorer` gives with the model in memory: packs, operations and their order, and
whether the model's attention may be replaced are decided alike, by the same trial, which goes through the layers with
the probes. Should it decide otherwise than was assumed, the pass is done again.

Shape suffixes: M rows, H hidden width, U embedding rows that are needed, K words of a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from deepshard.compute.jobs import Progress, TextScore
from deepshard.compute.layered import LayeredModel, Run
from deepshard.compute.memory import in_mib, return_freed
from deepshard.compute.packing import (
    ATTENTION,
    CANNOT_PACK,
    Pack,
    laid_out,
    packs_of,
    sequences_of,
    trial_agrees,
    trial_pack,
    unbatched,
)
from deepshard.compute.pieces import Piece, ShardReader, ahead
from deepshard.compute.probing import NOTHING, OPERATOR, Rows, Sequences, logit_numbers, rows_of, text_score
from deepshard.compute.sketch import UpdateSketch
from deepshard.compute.weights import Report
from deepshard.errors import LocalError
from deepshard.shards.layout import row_elements, tensor_bytes, tensor_rows
from deepshard.shards.manifest import Manifest
from kernels.cpu_lanes import in_lanes
from kernels.cpu_logprob_moments import TILE_WORDS, tile_count
from kernels.logprob_moments import StreamedMoments
from kernels.perturbation_score import PerturbationScores, score_moments

_EMBEDDING: Final = "embedding"
_HEAD: Final = "head"
_WORK_WIDTHS: Final = (3, 10)
"""fp32 values that a lane needs for each row of a pack: so many of the layer's widest side, and of the hidden width."""


class MemoryTooSmall(LocalError):
    """The limit leaves no room for two layers and the states of one probe."""


class _GuessedWrongError(Exception):
    """Whether the model's attention can be replaced was assumed wrongly."""


def resident_bytes(manifest: Manifest, *, is_profile: bool) -> int:
    """Memory to score with the model in it: its weights in fp32 and as stored, for a profile the base's as well."""
    stored = sum(map(tensor_bytes, manifest.tensors))
    elements = sum(tensor_rows(entry) * row_elements(entry) for entry in manifest.tensors)
    return 4 * elements + (2 if is_profile else 1) * stored


@dataclass(slots=True)
class _Flow:
    """A pack on its way: one run of the packed attention, or one for each segment of the model's own."""

    pack: Pack
    runs: list[Run]


@dataclass(slots=True)
class _Pass:
    """Everything that goes through the layers at once."""

    flows: list[list[_Flow]]
    """For each probe its packs."""
    own: list[Run] = field(default_factory=list)
    packed: list[tuple[Run, Pack]] = field(default_factory=list)
    trial: list[tuple[Run, Pack]] = field(default_factory=list)
    """The packed trial, for as long as it hasn't failed."""
    expected: list[Run] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        return [*self.own, *(run for run, _ in self.packed), *(run for run, _ in self.trial)]


class StreamedScorer:
    """Scores probes under one version of a model, read from its chunks.

    Args:
        directory: the configuration and nothing else is read there.
        reader: of the version; with its base's beside it where there is a sketch.
        limit_bytes: memory for weights and states, beyond what the program itself takes.
        seed: of a sketch of the update from the base, which is taken on the way.
        packs: whether the model is expected to take the packed attention.

    Attributes:
        path: the operator, where it runs and how the model's states are computed, for people; after scoring.
        packs: whether the model takes the packed attention; after scoring.
        sketch: the update's, after scoring; empty without a seed.

    Raises:
        BadModel: the tensors don't fit the configuration, or the model can't be read layer by layer.
    """

    def __init__(
        self,
        directory: Path,
        reader: ShardReader,
        limit_bytes: int,
        *,
        seed: bytes | None = None,
        packs: bool = True,
    ) -> None:
        self.layered = LayeredModel(directory, reader.manifest)
        self._reader = reader
        self._limit_bytes = limit_bytes
        self._seed = seed
        self.sketch: tuple[int, ...] = ()
        config = self.layered.model.config.get_text_config()
        self._logits = logit_numbers(config)
        self._attention = self.layered.model.config._attn_implementation  # noqa: SLF001  # as in `packing`
        self._head_width = int(getattr(config, "head_dim", None) or self.layered.width)
        self.packs = packs
        self._is_tried = False
        self._embeddings = reader.rows_of(self.layered.embedding, _EMBEDDING)
        self._heads = reader.rows_of(self.layered.head, _HEAD)
        self._others = reader.whole("others", self.layered.outer)
        self._layers = [reader.whole(f"layer {number}", names) for number, names in enumerate(self.layered.layers)]
        self._unused = [piece for name in self.layered.unused for piece in reader.rows_of(name, "unused")]

    @property
    def path(self) -> str:
        """See the class."""
        return f"{OPERATOR} (cpu, {'packed' if self.packs else 'batched'}, streamed)"

    def scores(self, probes: Sequence[Sequences], report: Report, stage: str) -> list[TextScore]:
        """A score for each probe; a text of fewer than two tokens has nothing to score, and scores 0.

        Progress is in layers.

        Raises:
            LocalError: a chunk is missing or corrupt, or the memory limit is too small.
            RemoteError: a chunk of the right address isn't an encoding of its shard.
            UnsoundWeights: there is a sketch, and weights aren't finite.
        """
        return_freed()
        found: list[PerturbationScores] = []
        batches = list(self._batches([probe for probe in probes if len(probe[0]) > 1])) or [[]]
        layers = len(self._layers)
        for number, batch in enumerate(batches):

            def note(layer: int, before: int = number * layers) -> None:
                report(Progress(stage=stage, done=before + layer + 1, total=len(batches) * layers))

            try:
                found += self._measure(batch, note)
            except _GuessedWrongError:
                self.packs, self._is_tried = not self.packs, True
                found += self._measure(batch, note)
        scored = iter(found)
        return [text_score(probe, next(scored)) if len(probe[0]) > 1 else NOTHING for probe in probes]

    def _batches(self, probes: Sequence[Sequences]) -> Iterator[Sequence[Sequences]]:
        """The probes in order, as many at a time as there is memory for their states."""
        begin = held = largest = 0
        for place, probe in enumerate(probes):
            packs = [len(pack.tokens_N) for pack in packs_of([sequence[:-1] for sequence in probe])]
            size = sum(packs) * self._row_bytes()
            work = self._work_bytes(max(packs))
            fixed = self._fixed_bytes()
            if fixed + work + size > self._limit_bytes:
                raise MemoryTooSmall(
                    f"scoring layer by layer needs {in_mib(fixed + work + size)}: {in_mib(fixed)} for weights, two"
                    f" layers of {in_mib(self._layer_bytes())} among them, {in_mib(work)} to compute, {in_mib(size)}"
                    f" for the states of probe {place}; the memory limit is {in_mib(self._limit_bytes)}: set it higher"
                )
            if begin < place and fixed + max(work, largest) + held + size > self._limit_bytes:
                yield probes[begin:place]
                begin, held, largest = place, 0, 0
            held, largest = held + size, max(largest, work)
        if begin < len(probes):
            yield probes[begin:]

    def _row_bytes(self) -> int:
        """States before the next layer, the embedding's row, rotary positions of two kinds, and tiles of the head."""
        layered = self.layered
        return 8 * layered.width + 16 * self._head_width + 16 * tile_count(layered.words)

    def _work_bytes(self, rows: int) -> int:
        wide, hidden = _WORK_WIDTHS
        lanes = max(1, torch.get_num_threads())
        return 4 * lanes * rows * (wide * self.layered.widest + hidden * self.layered.width)

    def _layer_bytes(self) -> int:
        return max(4 * self._reader.elements(piece) for piece in self._layers)

    def _fixed_bytes(self) -> int:
        pieces = [*self._embeddings, *self._layers, *self._heads, *self._unused]
        largest = max(4 * self._reader.elements(piece) for piece in pieces)
        decoded = max(self._reader.stored_bytes(piece) for piece in pieces) * (1 if self._seed is None else 2)
        return 4 * self._reader.elements(self._others) + 2 * largest + decoded

    def _measure(self, probes: Sequence[Sequences], note: Callable[[int], None]) -> list[PerturbationScores]:
        """One pass over the weights.

        Raises:
            _GuessedWrongError: the trial went otherwise than `packs` says.
        """
        layered, together = self.layered, self._gather(probes)
        pieces = [*self._embeddings, self._others, *self._layers, *self._heads, *self._unused]
        sketch = None if self._seed is None or self.sketch else UpdateSketch(self._seed)
        with closing(ahead(partial(self._load, sketch), pieces)) as coming:
            layered.set_outer(*self._embedding_rows(coming, together.runs), next(coming))
            if not self._is_tried:
                layered.check_flow(together.expected[0].inputs)
            self._each(together, layered.enter)
            for number in range(len(self._layers)):
                with layered.lent(number, next(coming)):
                    self._each(together, partial(layered.step, number))
                note(number)
            self._each(together, layered.leave)
            self._judge(together)
            streams = [(probe, *one) for probe, one in zip(probes, self._streams(probes, together), strict=True)]
            self._through_head(coming, [stream for _, _, stream in streams])
            for _ in self._unused:
                next(coming)
        if sketch is not None:
            self.sketch = sketch.values()
        return in_lanes(_finish, streams)

    def _embedding_rows(self, coming: Iterator[dict[str, Tensor]], runs: Sequence[Run]) -> tuple[Tensor, Tensor]:
        """Token numbers that occur, rising, and their rows."""
        ids = [run.inputs["input_ids"].flatten() for run in runs]
        ids_U = torch.unique(torch.cat(ids)) if ids else torch.empty(0, dtype=torch.int64)
        rows_UH = torch.empty((len(ids_U), self.layered.width))
        for piece in self._embeddings:
            (part,) = piece.parts
            first, end = torch.searchsorted(ids_U, torch.tensor([part.start, part.start + part.count])).tolist()
            rows_UH[first:end] = next(coming)[self.layered.embedding][ids_U[first:end] - part.start]
        return ids_U, rows_UH

    def _load(self, sketch: UpdateSketch | None, piece: Piece) -> dict[str, Tensor]:
        """A piece's tensors in fp32; and in the sketch, unless they came before as the embedding."""
        own, base = self._reader.read(piece)
        if sketch is not None and not (piece.name == _HEAD and self.layered.head == self.layered.embedding):
            for part in piece.parts:
                entry = self._reader.manifest.tensors[part.tensor]
                sketch.add(entry.name, base.pop(entry.name), own[entry.name], first=part.start * row_elements(entry))
        return {name: own.pop(name).float() for name in list(own)}

    def _gather(self, probes: Sequence[Sequences]) -> _Pass:
        together = _Pass([])
        for probe in probes:
            flows = []
            for pack in packs_of([sequence[:-1] for sequence in probe]):
                if self.packs:
                    flow = _Flow(pack, [_packed_run(pack)])
                    together.packed.append((flow.runs[0], pack))
                else:
                    flow = _Flow(pack, [Run({"input_ids": pack.tokens_N[one.rows_ST]}) for one in pack.segments])
                    together.own += flow.runs
                flows.append(flow)
            together.flows.append(flows)
        together.packed.sort(key=lambda one: -len(one[1].tokens_N))
        together.own.sort(key=lambda run: -run.inputs["input_ids"].numel())
        if not self._is_tried:
            pack = trial_pack(self.layered.words)
            together.trial.append((_packed_run(pack), pack))
            together.expected = [Run({"input_ids": numbers_1T}) for numbers_1T in sequences_of(pack)]
            together.own += together.expected
        return together

    def _each(self, together: _Pass, work: Callable[[Run], None]) -> None:
        """Do it with every run, under the attention that the run is for."""

        def do(run: Run) -> None:
            with torch.inference_mode():
                work(run)

        def do_packed(one: tuple[Run, Pack]) -> None:
            with laid_out(one[1]):
                do(one[0])

        in_lanes(do, together.own)
        if not (together.trial or together.packed):
            return
        try:
            self.layered.model.set_attn_implementation(ATTENTION)
            for one in together.trial:
                do_packed(one)
        except CANNOT_PACK:
            together.trial.clear()
            if self.packs:
                raise _GuessedWrongError from None
        else:
            in_lanes(do_packed, together.packed)
        finally:
            self.layered.model.set_attn_implementation(self._attention)

    def _judge(self, together: _Pass) -> None:
        """See how the trial went; it is taken once."""
        if self._is_tried:
            return
        expected = [run.states[0] for run in together.expected]
        if self.packs != any(trial_agrees(pack, run.states[0], expected) for run, pack in together.trial):
            raise _GuessedWrongError
        self._is_tried = True

    def _streams(self, probes: Sequence[Sequences], together: _Pass) -> list[tuple[Rows, StreamedMoments]]:
        """The rows of each probe, ready for the head; they are let go of elsewhere."""

        def ready(place: int) -> tuple[Rows, StreamedMoments]:
            rows = rows_of(probes[place], [flow.pack for flow in together.flows[place]])
            hidden = [self._hidden(flow) for flow in together.flows[place]]
            return rows, StreamedMoments(torch.cat(hidden), rows.targets_M, self.layered.words, **self._logits)

        return in_lanes(ready, range(len(probes)))

    def _hidden(self, flow: _Flow) -> Tensor:
        """States [N, H] of a pack's rows; its runs give theirs away."""
        states = []
        for run in flow.runs:
            states.append(run.states)
            run.states = torch.empty(0)
        with torch.inference_mode():
            return states[0][0] if self.packs else unbatched(flow.pack, states)

    def _through_head(self, coming: Iterator[dict[str, Tensor]], streams: Sequence[StreamedMoments]) -> None:
        """All rows through the head, in pieces of whole tiles."""
        order = sorted(streams, key=lambda stream: -stream.rows)
        rest_KH = torch.empty((0, self.layered.width))
        left = self.layered.words
        for _ in self._heads:
            piece_KH = next(coming)[self.layered.head]
            if len(rest_KH):
                piece_KH = torch.cat([rest_KH, piece_KH])
            words = len(piece_KH) if len(piece_KH) == left else len(piece_KH) // TILE_WORDS * TILE_WORDS
            rest_KH, left = piece_KH[words:].clone(), left - words
            if words:
                in_lanes(partial(_add, piece_KH[:words]), order)
            del piece_KH


def _packed_run(pack: Pack) -> Run:
    return Run({"input_ids": pack.tokens_N[None], "position_ids": pack.positions_N[None]})


def _add(piece_KH: Tensor, stream: StreamedMoments) -> None:
    stream.add(piece_KH)


def _finish(found: tuple[Sequences, Rows, StreamedMoments]) -> PerturbationScores:
    _, rows, stream = found
    with torch.inference_mode():
        moments = stream.finish()
        moments_3M = torch.stack([moments.log_prob, moments.mean, moments.variance])
        return score_moments(moments_3M, rows.rows_R, rows.sequence_starts, rows.probe_starts)
