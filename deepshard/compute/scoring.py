"""Scores of texts under models: log-probability and the two curvatures, for curators and validators.

A sequence's log-prob is the mean over its tokens, from the second on (the first after the start token, where the
tokenizer has one). Conditional curvature is Fast-DetectGPT's statistic, (sum log p - sum mean) / sqrt(sum variance)
over the same tokens (arXiv 2310.05130, equation 5). Perturbation curvature is DetectGPT's discrepancy, log-prob minus
the mean log-prob of the perturbed sequences (arXiv 2301.11305, equation 1), in nats a token.

How they are computed, and why a text's scores don't depend on what is scored beside it: `probing`.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
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
from deepshard.compute.models import BadModel, build_model, load_tokenizer, model_directory
from deepshard.compute.probing import Scorer, Sequences
from deepshard.compute.sketch import UnsoundWeights, sketch_update
from deepshard.compute.store import BlobStore
from deepshard.compute.tokens import encode_text
from deepshard.compute.weights import Report, Weights, load_weights
from deepshard.errors import LocalError, RemoteError
from deepshard.ledger.params import ProbePlan
from deepshard.ledger.probes import perturb
from deepshard.ledger.transactions import ProbeScore

CURATION_REPLACED_BP: Final = 1500
CURATION_SPAN_TOKENS: Final = 2
"""How a curator perturbs: DetectGPT's 15 % of the tokens, in spans of two."""
_SCORE_BOUND: Final = 2**40


def score_texts(job: ScoreTexts, report: Report) -> TextScores:
    """Score texts under one model.

    Raises:
        LocalError: the model can't be read.
    """
    weights = load_weights(job.model, report)
    with model_directory(weights.manifest, BlobStore(job.model.store)) as directory:
        model = build_model(directory, weights.tensors)
        tokenizer = load_tokenizer(directory)
    plan = ProbePlan(0, 0, 0, 0, job.perturbations, job.tokens_max, CURATION_REPLACED_BP, CURATION_SPAN_TOKENS)
    groups = _perturbed(tokenizer, job.texts, plan, job.seed)
    return TextScores(scores=tuple(_score_groups(Scorer(model), groups, report, "score")))


def profile(job: Profile, report: Report) -> ProfileResult:
    """Score submissions against their base and sketch their updates.

    The base's configuration and tokenizer serve for all; a submission contributes its tensors. One that can't be
    read, or
    isn't a version of the base, or yields numbers that aren't finite, is returned with `error` and without scores.

    Raises:
        LocalError: the base can't be read.
    """
    base = load_weights(job.base, report)
    with model_directory(base.manifest, BlobStore(job.base.store)) as directory:
        model = build_model(directory, base.tensors)
        groups = _perturbed(load_tokenizer(directory), job.probes, job.plan, job.seed)
        scorer = Scorer(model)
        base_scores, scored_by = _score_groups(scorer, groups, report, "score base"), scorer.path
        del scorer
        del model
        found: dict[bytes, SubmissionProfile] = {}
        for number, ref in enumerate(job.submissions, 1):
            report(Progress(stage="profile", done=number - 1, total=len(job.submissions)))
            if ref.manifest in found:
                continue
            try:
                weights = _load_submission(ref, base, report)
                sketch = sketch_update(base.tensors, weights.tensors, job.seed)
                root = weights.manifest.weights_root
                model = build_model(directory, weights.tensors)
                del weights
                scores = _score_groups(Scorer(model), groups, report, f"score {number} of {len(job.submissions)}")
                del model
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
        scored_by=scored_by,
    )


def _load_submission(ref: ModelRef, base: Weights, report: Report) -> Weights:
    weights = load_weights(ref, report, base=base)
    if weights.manifest.tensors != base.manifest.tensors:
        raise BadModel("the submission's tensors are not those of its base")
    return weights


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
