from __future__ import annotations

import pytest
import torch

from deepshard.compute.sketch import SCALE, UnsoundWeights, UpdateSketch, sketch_update
from deepshard.limits import SKETCH_BUCKETS
from deepshard.primitives import expand, tagged_hash

SEED = bytes(range(32))


def plain_sketch(base: dict[str, torch.Tensor], update: dict[str, torch.Tensor]) -> tuple[int, ...]:
    """The definition, element by element."""
    buckets = [0] * SKETCH_BUCKETS
    for name, old in base.items():
        own = tagged_hash("sketch tensor", SEED, name.encode())
        rotation = int.from_bytes(expand(own, "sketch rotation", 4), "little")
        signs = expand(own, "sketch signs", (old.numel() + 7) // 8)
        pairs = zip(old.flatten().tolist(), update[name].flatten().tolist(), strict=True)
        for index, (before, after) in enumerate(pairs):
            value = round((after - before) * SCALE)
            is_minus = signs[index // 8] >> (index % 8) & 1
            buckets[(index + rotation) % SKETCH_BUCKETS] += -value if is_minus else value
    return tuple(buckets)


def weights(seed: int, scale: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (37, 19), "b": (3,), "c": (256, 4), "d": ()}
    return {name: (torch.randn(shape, generator=generator) * scale).bfloat16() for name, shape in shapes.items()}


def test_the_sketch_is_what_its_definition_says() -> None:
    base, update = weights(1, 0.1), weights(2, 0.1)
    assert sketch_update(base, update, SEED) == plain_sketch(base, update)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    base, update = weights(1, 0.1), weights(2, 0.1)
    whole = sketch_update(base, update, SEED)
    monkeypatch.setattr("deepshard.compute.sketch._BLOCK_ELEMENTS", SKETCH_BUCKETS)
    assert sketch_update(base, update, SEED) == whole


def test_a_tensor_may_come_in_pieces_in_any_order() -> None:
    base, update = weights(1, 0.1), weights(2, 0.1)
    sketch = UpdateSketch(SEED)
    for name in ("d", "c", "b"):
        sketch.add(name, base[name], update[name])
    for begin, end in ((20, 37), (0, 7), (7, 20)):
        sketch.add("a", base["a"][begin:end], update["a"][begin:end], first=19 * begin)
    assert sketch.values() == sketch_update(base, update, SEED)


def test_the_norm_is_estimated() -> None:
    generator = torch.Generator().manual_seed(5)
    base = {"w": torch.zeros(400, 500, dtype=torch.bfloat16)}
    update = {"w": (torch.randn(400, 500, generator=generator) * 1e-3).bfloat16()}
    norm = float(update["w"].double().square().sum()) * SCALE**2
    assert sum(value**2 for value in sketch_update(base, update, SEED)) == pytest.approx(norm, rel=0.3)


def test_no_update_sketches_to_zero_and_the_seed_matters() -> None:
    base, update = weights(1, 0.1), weights(2, 0.1)
    assert set(sketch_update(base, base, SEED)) == {0}
    assert sketch_update(base, update, SEED) != sketch_update(base, update, bytes(32))


def test_huge_changes_are_clipped_and_unsound_ones_refused() -> None:
    base = {"w": torch.zeros(2)}
    huge = sketch_update(base, {"w": torch.tensor([3e38, 0.0])}, SEED)
    assert {abs(value) for value in huge} == {0, 2**31 - 1}
    with pytest.raises(UnsoundWeights, match="not finite"):
        sketch_update(base, {"w": torch.tensor([float("inf"), 0.0])}, SEED)
    with pytest.raises(UnsoundWeights, match="same tensors"):
        sketch_update(base, {"v": torch.zeros(2)}, SEED)
    with pytest.raises(UnsoundWeights, match="shape"):
        sketch_update(base, {"w": torch.zeros(3)}, SEED)
