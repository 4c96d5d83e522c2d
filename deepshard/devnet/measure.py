"""An independent measurement of the accepted text, by a worker of our own on the weights the inference node verified.

The ledger keeps only differences to the base model, since that is all a verdict needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio

from deepshard.compute.client import ComputeClient
from deepshard.compute.jobs import ModelRef, ScoreTexts, TextScores
from deepshard.errors import LocalError
from deepshard.primitives import ZERO_DIGEST


async def mean_log_probs(
    manifests: Sequence[bytes], store: Path, texts: Sequence[str], *, tokens_max: int, threads: int
) -> list[float]:
    """Mean log-prob of the texts' tokens under each of several versions of the weights, in nats a token.

    Raises:
        LocalError: the worker could not load the weights or score the texts.
    """
    client = ComputeClient(threads=threads)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        means = [
            await _mean_log_prob(client, ModelRef(manifest=manifest, store=str(store)), texts, tokens_max)
            for manifest in manifests
        ]
        nursery.cancel_scope.cancel()
    return means


async def _mean_log_prob(client: ComputeClient, model: ModelRef, texts: Sequence[str], tokens_max: int) -> float:
    job = ScoreTexts(model=model, texts=tuple(texts), tokens_max=tokens_max, perturbations=0, seed=ZERO_DIGEST)
    result = await client.submit(job)
    if not isinstance(result, TextScores) or len(result.scores) != len(texts):
        raise LocalError(f"the compute worker answered ScoreTexts with {type(result).__name__}")
    return weighted_mean([(score.log_prob, score.tokens) for score in result.scores])


def weighted_mean(values: Sequence[tuple[float, int]]) -> float:
    """Mean of values by their weights.

    Raises:
        LocalError: nothing has any weight.
    """
    total = sum(weight for _, weight in values)
    if total == 0:
        raise LocalError("the accepted text has no tokens to score")
    return sum(value * weight for value, weight in values) / total
