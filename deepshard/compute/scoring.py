"""Scores of texts under models: log-probability and the two curvatures, for curators and validators.

A sequence's log-prob is the mean over its tokens, from the second on (the first after the start token, where the
tokenizer has one). Conditional curvature is Fast-DetectGPT's statistic, (sum log p - sum mean) / sqrt(sum variance)
over the same tokens (arXiv 2310.05130, equation 5). Perturbation curvature is DetectGPT's discrepancy, log-prob minus
the mean log-prob of the perturbed sequences (arXiv 2301.11305, equation 1), in nats a token.

How they are computed, and why a text's scores don't depend on what is scored beside it: `probing`. A model that is
larger than the memory a job may use is read layer by layer, with the same scores: `streamed`.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from deepshard.compute.jobs import (
    ModelRef,
    Profile,
    ProfileResult,
    Progress,
    ScoreTexts,
    SubmissionProfile,
    TextScore,
    TextScores,
)
from deepshard.compute.memory import memory_limit
from deepshard.compute.models import BadModel, build_model, load_tokenizer, model_directory
from deepshard.compute.pieces import ShardReader
from deepshard.compute.probing import Scorer, Sequences
from deepshard.compute.sketch import UnsoundWeights, sketch_update
from deepshard.compute.store import BlobStore
from deepshard.compute.streamed import StreamedScorer, resident_bytes
from deepshard.compute.tokens import encode_text
from deepshard.compute.weights import Report, load_weights, read_manifest
from deepshard.errors import LocalError, RemoteError
from deepshard.ledger.params import ProbePlan
from deepshard.ledger.probes import perturb
from deepshard.ledger.transactions import ProbeScore
from deepshard.shards.manifest import Manifest

CURATION_REPLACED_BP: Final = 1500
CURATION_SPAN_TOKENS: Final = 2
"""How a curator perturbs: DetectGPT's 15 % of the tokens, in spans of two."""
_SCORE_BOUND: Final = 2**40
_Scored = tuple[list[TextScore], tuple[int, ...], bytes]
"""Scores, sketch of the update, and root of the weights."""


def score_texts(job: ScoreTexts, report: Report) -> TextScores:
    """Score texts under one model.

    Raises:
        LocalError: the model can't be read.
    """
    models = _models(job, job.model, report, is_profile=False)
    with models.directory() as directory:
        plan = ProbePlan(0, 0, 0, 0, job.perturbations, job.tokens_max, CURATION_REPLACED_BP, CURATION_SPAN_TOKENS)
        groups = _perturbed(load_tokenizer(directory), job.texts, plan, job.seed)
        return TextScores(scores=tuple(models.score_base(directory, groups, "score")))


def profile(job: Profile, report: Report) -> ProfileResult:
    """Score submissions against their base and sketch their updates.

    The base's configuration and tokenizer serve for all; a submission contributes its tensors. One that can't be read,
    or isn't a version of the base, or yields numbers that aren't finite, is returned with `error` and without scores.

    Raises:
        LocalError: the base can't be read.
    """
    models = _models(job, job.base, report, is_profile=True)
    with models.directory() as directory:
        groups = _perturbed(load_tokenizer(directory), job.probes, job.plan, job.seed)
        base_scores = models.score_base(directory, groups, "score base")
        found: dict[bytes, SubmissionProfile] = {}
        for number, ref in enumerate(job.submissions, 1):
            report(Progress(stage="profile", done=number - 1, total=len(job.submissions)))
            if ref.manifest in found:
                continue
            try:
                stage = f"score {number} of {len(job.submissions)}"
                scores, sketch, root = models.score_submission(directory, ref, groups, job.seed, stage)
                found[ref.manifest] = SubmissionProfile(
                    profile=_gains(scores, base_scores), sketch=sketch, weights_root=root, error=""
                )
            except (LocalError, RemoteError) as error:
                found[ref.manifest] = SubmissionProfile(
                    profile=(), sketch=(), weights_root=bytes(32), error=f"{type(error).__name__}: {error}"
                )
            gc.collect()
    nothing = [TextScore(tokens=0, log_prob=0.0, conditional_curvature=0.0, perturbation_curvature=0.0)] * len(groups)
    return ProfileResult(
        base=_gains(base_scores, nothing),
        submissions=tuple(found[ref.manifest] for ref in job.submissions),
        scored_by=models.scored_by,
    )


def _models(job: ScoreTexts | Profile, base: ModelRef, report: Report, *, is_profile: bool) -> _Resident | _Streamed:
    """The way to score: with the models in memory, or layer by layer."""
    manifest = read_manifest(base)
    limit = memory_limit(job.memory_bytes)
    is_large = resident_bytes(manifest, is_profile=is_profile) > limit
    if job.scoring == "streamed" or (job.scoring == "auto" and is_large):
        return _Streamed(base, manifest, limit, report)
    return _Resident(base, report)


class _Resident:
    """A base and its submissions, one after the other in memory."""

    def __init__(self, base: ModelRef, report: Report) -> None:
        self._report = report
        self._base = load_weights(base, report)
        self._store = BlobStore(base.store)
        self.scored_by = ""

    def directory(self) -> AbstractContextManager[Path]:
        return model_directory(self._base.manifest, self._store)

    def score_base(self, directory: Path, groups: Sequence[Sequences], stage: str) -> list[TextScore]:
        scorer = Scorer(build_model(directory, self._base.tensors))
        self.scored_by = scorer.path
        return _score_groups(scorer, groups, self._report, stage)

    def score_submission(
        self, directory: Path, ref: ModelRef, groups: Sequence[Sequences], seed: bytes, stage: str
    ) -> _Scored:
        weights = load_weights(ref, self._report, base=self._base)
        _check_version(weights.manifest, self._base.manifest)
        sketch = sketch_update(self._base.tensors, weights.tensors, seed)
        root = weights.manifest.weights_root
        model = build_model(directory, weights.tensors)
        del weights
        return _score_groups(Scorer(model), groups, self._report, stage), sketch, root


class _Streamed:
    """The same, read from their chunks in pieces, a layer at a time."""

    def __init__(self, base: ModelRef, manifest: Manifest, limit_bytes: int, report: Report) -> None:
        self._report, self._limit_bytes = report, limit_bytes
        self._store = BlobStore(base.store)
        self._base = ShardReader(manifest, self._store)
        self._packs = True
        self.scored_by = ""

    def directory(self) -> AbstractContextManager[Path]:
        return model_directory(self._base.manifest, self._store)

    def score_base(self, directory: Path, groups: Sequence[Sequences], stage: str) -> list[TextScore]:
        scorer = StreamedScorer(directory, self._base, self._limit_bytes)
        scores = scorer.scores(groups, self._report, stage)
        self.scored_by, self._packs = scorer.path, scorer.packs
        return scores

    def score_submission(
        self, directory: Path, ref: ModelRef, groups: Sequence[Sequences], seed: bytes, stage: str
    ) -> _Scored:
        manifest = read_manifest(ref)
        reader = ShardReader(manifest, BlobStore(ref.store), self._base)
        _check_version(manifest, self._base.manifest)
        scorer = StreamedScorer(directory, reader, self._limit_bytes, seed=seed, packs=self._packs)
        scores = scorer.scores(groups, self._report, stage)
        return scores, scorer.sketch, manifest.weights_root


def _check_version(manifest: Manifest, base: Manifest) -> None:
    if manifest.tensors != base.tensors:
        raise BadModel("the submission's tensors are not those of its base")


def _perturbed(tokenizer: Any, texts: Sequence[str], plan: ProbePlan, seed: bytes) -> list[Sequences]:
    originals = [tuple(encode_text(tokenizer, text, plan.tokens_max)) for text in texts]
    # Replacements come from all the texts' own tokens, so perturbed text stays in the corpus's vocabulary.
    first = 0 if tokenizer.bos_token_id is None else 1
    table = [number for numbers in originals for number in numbers[first:]]
    return [
        (
            numbers,
            *(
                tuple(perturb(numbers, table, plan=plan, seed=seed, probe=place, index=index))
                for index in range(plan.perturbations if len(numbers) > 1 and table else 0)
            ),
        )
        for place, numbers in enumerate(originals)
    ]


def _score_groups(scorer: Scorer, groups: Sequence[Sequences], report: Report, stage: str) -> list[TextScore]:
    scores: list[TextScore] = []
    for batch in scorer.batches(groups):
        scores += scorer.scores(batch)
        report(Progress(stage=stage, done=len(scores), total=len(groups)))
    return scores


def _gains(scores: Sequence[TextScore], base: Sequence[TextScore]) -> tuple[ProbeScore, ...]:
    return tuple(
        ProbeScore(
            _thousandths(score.log_prob - old.log_prob),
            _thousandths(score.conditional_curvature - old.conditional_curvature),
            _thousandths(score.perturbation_curvature - old.perturbation_curvature),
        )
        for score, old in zip(scores, base, strict=True)
    )


def _thousandths(value: float) -> int:
    if not math.isfinite(value) or abs(value) * 1000 >= _SCORE_BOUND:
        raise UnsoundWeights(f"a probe's score is {value}, beyond what can be reported")
    return round(value * 1000)
