"""Row of probe scoring: SmolLM2-135M, a probe set through the validators' scorer, beside DetectGPT's procedure.

The procedure takes one text after the other, padded to the longest, and materialises logits: the loss that transformers
computes is the log-prob, as in `get_ll` of DetectGPT's published code; the text itself goes once more through the
analytic statistic of Fast-DetectGPT's. Padded, every text takes it the same time, so it is timed on a quarter of each
round's probes, and that is multiplied by four: the row has to end within four minutes.
"""

from __future__ import annotations

import tempfile
from copy import deepcopy
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from bench.wire.rows import Row
from deepshard.compute.importing import import_model
from deepshard.compute.jobs import ImportModel, ModelRef
from deepshard.compute.models import build_model, model_directory
from deepshard.compute.probing import Scorer, Sequences
from deepshard.compute.store import BlobStore
from deepshard.compute.weights import load_weights
from deepshard.ledger.params import ProbePlan
from deepshard.ledger.probes import perturb
from kernels.perturbation_score import PerturbationScores

from .timing import ratios, seconds_of

PERTURBATIONS = 16
REPLACED_BP = 1500
SPAN_TOKENS = 2
LONGEST = 256
REFERENCE_SHARE = 4


def small() -> tuple[Any, Any]:
    """Two equal models of random weights, which take no time to make."""
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return model, deepcopy(model)


def load(source: str) -> tuple[Any, Any]:
    """Two equal models: one is scored through, one keeps its own attention."""
    with tempfile.TemporaryDirectory() as name:
        imported = import_model(ImportModel(source=source, store=name), lambda _: None)
        weights = load_weights(ModelRef(manifest=imported.manifest, store=name), lambda _: None)
        with model_directory(weights.manifest, BlobStore(name)) as directory:
            return build_model(directory, weights.tensors), build_model(directory, weights.tensors)


def probe_set(count: int, shortest: int, longest: int, perturbations: int, words: int) -> list[Sequences]:
    """Random tokens, lengths spread evenly, perturbed as a curator does: 15 % of the tokens, in spans of two."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.linspace(shortest, longest, count).round().int().tolist()
    texts = [tuple(torch.randint(3, words, (length,), generator=generator).tolist()) for length in lengths]
    table = [number for text in texts for number in text]
    plan = ProbePlan(0, 0, 0, 0, perturbations, longest, REPLACED_BP, SPAN_TOKENS)
    order = torch.randperm(count, generator=generator).tolist()
    return [
        (
            texts[place],
            *(
                tuple(perturb(texts[place], table, plan=plan, seed=bytes(32), probe=place, index=index))
                for index in range(perturbations)
            ),
        )
        for place in order
    ]


@torch.inference_mode()
def one_by_one(
    model: Any,  # noqa: ANN401  # transformers is untyped
    probe: Sequences,
    longest: int,
) -> tuple[list[float], float, float, float]:
    """Log-prob of each sequence; discrepancy, normalised discrepancy and conditional curvature."""
    log_probs = []
    for sequence in probe:
        tokens_1T, mask_1T = padded(sequence, longest)
        labels_1T = tokens_1T.masked_fill(mask_1T == 0, -100)
        log_probs.append(-float(model(input_ids=tokens_1T, attention_mask=mask_1T, labels=labels_1T).loss))
    others = torch.tensor(log_probs[1:], dtype=torch.float64)
    discrepancy, deviation = log_probs[0] - float(others.mean()), float(others.std(correction=0))
    tokens_1T, mask_1T = padded(probe[0], longest)
    logits_TV = model(input_ids=tokens_1T, attention_mask=mask_1T).logits[0, : len(probe[0]) - 1]
    log_p_TV = torch.log_softmax(logits_TV, 1)
    p_TV = torch.softmax(logits_TV, 1)
    log_prob_T = log_p_TV.gather(1, tokens_1T[0, 1 : len(probe[0]), None])[:, 0]
    mean_T = (p_TV * log_p_TV).sum(1)
    variance_T = (p_TV * log_p_TV.square()).sum(1) - mean_T.square()
    conditional = float((log_prob_T.sum() - mean_T.sum()) / variance_T.sum().sqrt())
    return log_probs, discrepancy, discrepancy / (deviation or 1.0), conditional


def padded(sequence: tuple[int, ...], longest: int) -> tuple[Tensor, Tensor]:
    tokens_1T, mask_1T = (torch.zeros((1, longest), dtype=torch.int64) for _ in range(2))
    tokens_1T[0, : len(sequence)] = torch.tensor(sequence)
    mask_1T[0, : len(sequence)] = 1
    return tokens_1T, mask_1T


def scoring_rows(*, quick: bool) -> list[Row]:
    count, rounds = (2, 1) if quick else (32, 4)
    ours, reference = small() if quick else load("smollm2")
    scorer = Scorer(ours)
    words = scorer.words
    shortest, longest = (8, 32) if quick else (64, LONGEST)
    probes = probe_set(count, shortest, longest, 3 if quick else PERTURBATIONS, words)
    one_by_one(reference, probes[0][:2], longest)
    scorer.scores([tuple(sequence[:16] for sequence in probes[0])])
    seconds: dict[str, list[float]] = {"ours": [], "one by one": []}
    errors, unpadded = [], 0.0
    share = count // rounds
    timed = max(1, share // REFERENCE_SHARE)
    for begin in range(0, count, share):
        part = probes[begin : begin + share]
        few = part[:timed]
        found: list[PerturbationScores] = []
        expected: list[tuple[list[float], float, float, float]] = []
        seconds["ours"].append(seconds_of(lambda: found.extend(scorer.measure(part))))  # noqa: B023  # called here
        taken = seconds_of(lambda: expected.extend(one_by_one(reference, one, longest) for one in few))  # noqa: B023
        seconds["one by one"].append(taken * len(part) / len(few))
        if begin == 0:
            alone = seconds_of(lambda: list(scorer.measure(few)))  # noqa: B023
            unpadded = seconds_of(lambda: [one_by_one(reference, one, len(one[0])) for one in few]) / alone  # noqa: B023
        errors += [worst(one, other) for one, other in zip(found, expected, strict=False)]
    beside = {
        "ours, all probes (s)": sum(seconds["ours"]),
        "one by one, all probes (s)": sum(seconds["one by one"]),
        f"one by one without padding / ours, {timed} probes": unpadded,
    }
    name = f"scoring, {count} probes x (1 + {len(probes[0]) - 1}), {shortest} to {longest} tokens"
    ratio = median(ratios(seconds, "one by one", "ours"))
    return [
        Row(f"{name}: one by one / ours", ratio, "ratio", 3.0, at_least=True, beside=beside),
        Row("scoring: worst difference from one by one", max(errors), "", 1e-4, at_least=False),
    ]


def worst(found: PerturbationScores, expected: tuple[list[float], float, float, float]) -> float:
    """Of log-probs and discrepancy in nats a token; of the two others in units of the value where that is above 1."""
    log_prob = (found.log_prob - torch.tensor(expected[0], dtype=torch.float64)).abs().max()
    values = zip((found.discrepancy, found.normalised, found.conditional), expected[1:], strict=True)
    return max(float(log_prob), *(abs(float(one[0]) - other) / max(1.0, abs(other)) for one, other in values))
