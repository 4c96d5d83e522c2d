"""A training round's fine-tune: one recipe, one data order, so that honest trainers find the same weights.

The weights are taken to fp32, trained with AdamW (Loshchilov and Hutter, arXiv 1711.05101; betas 0.9 and 0.95, epsilon
1e-8, decay on matrices only, constant rate), the gradient clipped to norm 1, and rounded to the stored type at the end,
to nearest with ties to even. Dropout is off. With a LoRA recipe the weights stay as they are: factors beside them are
trained, rounded, and merged (`adapters`).

A step takes `batch_segments` segments of the round's order; its loss is the mean over their tokens of the negative
log-likelihood, each token weighted by its segment's `weight_bp`. The gradient is summed over micro-batches of that one
quotient, so how a machine splits a step changes nothing but rounding. A segment is padded on the right, where causal
attention keeps padding out of sight of its tokens. The checkpoint tree has a leaf for each pass: the Merkle root over
the content digests of the fp32 parameters that are trained, by name.

Shape suffixes: B sequences, T positions, N rows that have a target, H hidden width, V vocabulary.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from deepshard.chunk_tree import chunks_root
from deepshard.compute.adapters import Adapters
from deepshard.compute.jobs import Progress, Train, TrainResult
from deepshard.compute.lineage import lineage_of
from deepshard.compute.models import build_model, head_weight, hidden_states, load_tokenizer, model_directory
from deepshard.compute.store import BlobStore
from deepshard.compute.tokens import encode_text
from deepshard.compute.weights import Report, delta_depth, load_weights, merged_tensors, store_model
from deepshard.errors import LocalError
from deepshard.ledger.params import Recipe
from deepshard.ledger.rounds import data_order
from deepshard.merkle import merkle_root
from deepshard.primitives import content_digest
from deepshard.shards.layout import chunk_leaves
from deepshard.shards.rules import manifest_digest

BETAS: Final = (0.9, 0.95)
EPSILON: Final = 1e-8
GRADIENT_NORM_MAX: Final = 1.0
_LOSS_BLOCK_ROWS: Final = 256


class Diverged(LocalError):
    """Training left the finite numbers."""


@dataclass(frozen=True)
class _Sequence:
    numbers: list[int]
    weight: float


def train(job: Train, report: Report) -> TrainResult:
    """Train and store the result as deltas on the base.

    Raises:
        LocalError: the base can't be read, or the loss or gradient isn't finite.
    """
    if len(job.segments) != len(job.weights_bp) or not job.segments or job.micro_batch < 1:
        raise LocalError(f"{len(job.segments)} segments with {len(job.weights_bp)} weights can't be trained on")
    weights = load_weights(job.base, report)
    manifest = weights.manifest
    kinds = {name: tensor.dtype for name, tensor in weights.tensors.items()}
    with model_directory(manifest, BlobStore(job.base.store)) as directory:
        model = build_model(directory, weights.tensors)
        tokenizer = load_tokenizer(directory)
    # The decoded base is dropped while the optimizer's state is alive, and read again when deltas are made.
    del weights
    sequences = [
        _Sequence(encode_text(tokenizer, text, job.recipe.segment_tokens_max), weight / 10_000)
        for text, weight in zip(job.segments, job.weights_bp, strict=True)
    ]
    if job.recipe.lora is None:
        adapters = None
        parameters = dict(model.requires_grad_(requires_grad=True).named_parameters())
    else:
        adapters = Adapters(model, job.recipe.lora, list(kinds), job.order_seed)
        parameters = adapters.parameters
    losses, passes = _fit(model, parameters, sequences, job, report)
    factors = adapters.factors() if adapters else {}
    trained = {} if adapters else _round(model, kinds)
    del model, parameters, adapters
    gc.collect()
    base = load_weights(job.base, report)
    trained = trained or merged_tensors(base, factors)
    changed = sum(int((base.tensors[name] != tensor).sum()) for name, tensor in trained.items())
    total = sum(tensor.numel() for tensor in trained.values())
    depth = delta_depth(manifest, BlobStore(job.base.store)) + 1
    stored, encoded_bytes = store_model(
        trained, manifest.files, BlobStore(job.store), report, base=base, depth=depth, factors=factors
    )
    return TrainResult(
        manifest=manifest_digest(stored),
        weights_root=stored.weights_root,
        chunks_root=chunks_root(chunk_leaves(lineage_of(stored, BlobStore(job.store)))),
        shard_count=len(stored.shards),
        checkpoint_root=merkle_root(passes),
        losses=tuple(losses),
        encoded_bytes=encoded_bytes,
        changed_share=changed / max(1, total),
    )


def _fit(
    model: Any, parameters: Mapping[str, Tensor], sequences: Sequence[_Sequence], job: Train, report: Report
) -> tuple[list[float], list[bytes]]:
    recipe = job.recipe
    optimizer = _optimizer(parameters, recipe)
    order = data_order(job.order_seed, len(sequences), recipe.passes)
    size = max(1, recipe.batch_segments)
    steps = [
        (number, turn[start : start + size]) for number, turn in enumerate(order) for start in range(0, len(turn), size)
    ]
    losses: list[float] = []
    passes: list[bytes] = []
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        for done, (number, chosen) in enumerate(steps, 1):
            losses.append(_step(model, optimizer, [sequences[index] for index in chosen], job.micro_batch))
            report(Progress(stage="train", done=done, total=len(steps)))
            if done == len(steps) or steps[done][0] != number:
                passes.append(_checkpoint(parameters))
    finally:
        torch.use_deterministic_algorithms(mode=False)
    return losses, passes


def _optimizer(trained: Mapping[str, Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    parameters = list(trained.values())
    decay = recipe.weight_decay_nano / 1e9
    groups = [
        {"params": [tensor for tensor in parameters if tensor.dim() >= 2], "weight_decay": decay},
        {"params": [tensor for tensor in parameters if tensor.dim() < 2], "weight_decay": 0.0},
    ]
    # The fused form keeps no temporaries of the size of the weights.
    return torch.optim.AdamW(groups, lr=recipe.learning_rate_nano / 1e9, betas=BETAS, eps=EPSILON, fused=True)


def _step(model: Any, optimizer: torch.optim.Optimizer, chosen: Sequence[_Sequence], micro_batch: int) -> float:
    total = sum(sequence.weight * max(0, len(sequence.numbers) - 1) for sequence in chosen)
    if total == 0:
        return 0.0
    loss = 0.0
    for start in range(0, len(chosen), micro_batch):
        loss += _accumulate(model, chosen[start : start + micro_batch], total)
    parameters = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM_MAX, foreach=False)
    if not bool(torch.isfinite(norm)):
        raise Diverged(f"the gradient is not finite at a loss of {loss:.3f} nats a token")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


def _accumulate(model: Any, part: Sequence[_Sequence], total: float) -> float:
    width = max(len(sequence.numbers) for sequence in part)
    numbers_BT = torch.tensor([sequence.numbers + [0] * (width - len(sequence.numbers)) for sequence in part])
    lengths = torch.tensor([len(sequence.numbers) for sequence in part])
    has_target_BT = torch.arange(width - 1)[None, :] < lengths[:, None] - 1
    if not bool(has_target_BT.any()):
        return 0.0
    share_B = torch.tensor([sequence.weight / total for sequence in part])
    hidden_NH = hidden_states(model, numbers_BT)[:, :-1][has_target_BT]
    share_N = share_B[:, None].expand(-1, width - 1)[has_target_BT]
    loss: Tensor = _WeightedNll.apply(hidden_NH, head_weight(model), numbers_BT[:, 1:][has_target_BT], share_N)  # type: ignore[no-untyped-call]
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


class _WeightedNll(torch.autograd.Function):
    """sum_n share_n * -log p(target_n), in blocks of rows.

    The gradient is found with the loss, as in Liger-Kernel's fused cross-entropy, so logits live for one block only.
    """

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, head_VH: Tensor, targets_N: Tensor, share_N: Tensor) -> Tensor:
        loss = hidden_NH.new_zeros(())
        grad_hidden_NH = torch.empty_like(hidden_NH)
        grad_head_VH = torch.zeros_like(head_VH) if ctx.needs_input_grad[1] else None
        for start in range(0, hidden_NH.shape[0], _LOSS_BLOCK_ROWS):
            rows = slice(start, start + _LOSS_BLOCK_ROWS)
            targets_B1, share_B1 = targets_N[rows, None], share_N[rows, None]
            log_p_BV = torch.log_softmax(hidden_NH[rows] @ head_VH.T, 1)
            loss -= (share_B1 * log_p_BV.gather(1, targets_B1)).sum()
            grad_BV = log_p_BV.exp_().mul_(share_B1)
            grad_BV.scatter_add_(1, targets_B1, -share_B1)
            grad_hidden_NH[rows] = grad_BV @ head_VH
            if grad_head_VH is not None:
                grad_head_VH.addmm_(grad_BV.T, hidden_NH[rows])
        ctx.gradients = (grad_hidden_NH, grad_head_VH)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        grad_hidden_NH, grad_head_VH = ctx.gradients
        ctx.gradients = None  # scaled in place and handed on: a copy of the head's gradient is a tenth of the model
        return grad_hidden_NH.mul_(grad), None if grad_head_VH is None else grad_head_VH.mul_(grad), None, None


def _checkpoint(parameters: Mapping[str, Tensor]) -> bytes:
    named = sorted(parameters.items())
    return merkle_root(
        [content_digest(tensor.detach().reshape(-1).view(torch.uint8).numpy().data) for _, tensor in named]
    )


def _round(model: Any, kinds: dict[str, torch.dtype]) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: state[name].detach().to(kind) for name, kind in kinds.items()}
