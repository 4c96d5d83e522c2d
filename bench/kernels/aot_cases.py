"""Every kernel and configuration that the ahead-of-time gate compiles, with what it demands of each."""
# ruff: noqa: SLF001  # the kernels' own tile sizes, so that what is compiled is what runs

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import torch

from kernels import triton_logprob_moments as moments
from kernels import triton_perturbation_score as scores
from kernels.gpu_sharded_linear import (
    CONFIGS,
    GRADIENT_CONFIG,
    GROUP_M,
    HIP_STAGES,
    NARROW_CONFIGS,
    SCALED_CONFIG,
    SCALED_NARROW_CONFIG,
    UNALIGNED_CONFIG,
    UNALIGNED_GRADIENT_CONFIG,
    WIDE_CONFIG,
    Config,
)
from kernels.triton_plane_codec import BLOCK, HIP_WARPS, WARPS
from kernels.triton_sharded_linear import ALIGNED, ANY, BLOCK_K, DESCRIPTOR, FIELDS

ARCHITECTURES: Final = ("sm_80", "sm_90", "sm_100", "gfx942")
Constant = int | bool | str


@dataclass(frozen=True, slots=True)
class Case:
    """One compilation.

    Attributes:
        name: kernel and configuration, as the table shows it.
        kernel: module and function.
        pointers: Triton type of each pointer argument; those in `loose` have no promised alignment.
        constants: constexpr arguments; a type's name in place of the type.
        wide_share: share of the inner loop's loaded bytes that has to come 16 bytes at a time or in bulk.
        tensor_core: whether the inner loop has to hold a tensor-core instruction.
        in_quick: whether the quick run takes it.
    """

    name: str
    kernel: tuple[str, str]
    architecture: str
    pointers: dict[str, str]
    constants: dict[str, Constant]
    warps: int
    stages: int
    tensor_core: bool
    wide_share: float
    scalars: dict[str, str] = field(default_factory=dict)
    """Types of arguments that are neither pointers nor i32."""
    divisible: tuple[str, ...] = ()
    """Integers that are multiples of 16 at the shapes in mind, which Triton sees at run time."""
    in_quick: bool = False


def cases() -> Iterator[Case]:
    for architecture in ARCHITECTURES:
        yield from _products(architecture)
        yield from _weight_gradients(architecture)
        yield from _codecs(architecture)
        yield from _moments(architecture)
        yield from _scores(architecture)


def path_of(architecture: str) -> int:
    """How aligned tables are loaded there; see `kernels/triton_sharded_linear.py`."""
    return DESCRIPTOR if architecture in {"sm_90", "sm_100"} else ALIGNED


def stages_of(config: Config, architecture: str) -> int:
    return min(config.stages, HIP_STAGES) if architecture.startswith("gfx") else config.stages


def _products(architecture: str) -> Iterator[Case]:
    path = path_of(architecture)
    for config in CONFIGS:
        yield _product(architecture, config, path, bias=True, residual=True, in_quick=config == CONFIGS[0])
    for config in NARROW_CONFIGS:
        yield _product(architecture, config, path, gated=True)
    first = CONFIGS[0]
    yield _product(architecture, NARROW_CONFIGS[0], path, keep=True, bias=True)
    yield _product(architecture, NARROW_CONFIGS[1], path, keep=True, bias=True)
    yield _product(architecture, NARROW_CONFIGS[0], path, gated=True, keep=True)
    yield _product(architecture, first, path, summed=True)
    yield _product(architecture, first, path, over=0, summed=True)
    yield _product(architecture, first, path, over=0)
    yield _product(architecture, SCALED_CONFIG, path, scaled=1)
    yield _product(architecture, SCALED_CONFIG, path, scaled=2)
    yield _product(architecture, SCALED_NARROW_CONFIG, path, scaled=1, gated=True)
    yield _product(architecture, SCALED_NARROW_CONFIG, path, scaled=2, gated=True)
    yield _product(architecture, UNALIGNED_CONFIG, ANY, bias=True)
    yield _product(architecture, UNALIGNED_CONFIG, ANY, gated=True)
    yield _product(architecture, WIDE_CONFIG, ALIGNED, dtype="fp32", gated=True)
    yield _product(architecture, WIDE_CONFIG, ALIGNED, dtype="fp32")
    yield _product(architecture, UNALIGNED_CONFIG, ANY, dtype="fp32")
    for activation in (2, 3):
        yield _product(architecture, first, path, activation=activation)


def _product(
    architecture: str,
    config: Config,
    path: int,
    *,
    dtype: str = "bf16",
    over: int = 1,
    summed: bool = False,
    gated: bool = False,
    scaled: int = 0,
    activation: int = 1,
    bias: bool = False,
    residual: bool = False,
    keep: bool = False,
    in_quick: bool = False,
) -> Case:
    marks = {
        "rows" if over == 1 and summed else "": True,
        "dx columns" if over == 0 and summed else "": True,
        "dx rows" if over == 0 and not summed else "": True,
        "gated": gated, "kept": keep, "unaligned": path == ANY, "fp32": dtype == "fp32",
        "int8 by steps": scaled == 1, "int8 by elements": scaled == 2,
        f"act {activation}": activation > 1, "bias, residual": bias and residual,
    }  # fmt: skip
    label = ", ".join(mark for mark, is_so in marks.items() if mark and is_so)
    return Case(
        name=f"product {config.block_m}x{config.block_n} {config.warps}w {config.stages}s {label}".rstrip(),
        kernel=("kernels.triton_sharded_linear", "product_kernel"),
        architecture=architecture,
        pointers={
            "x_ptr": f"*{dtype}", "table_ptr": "*i64", "tiles_ptr": "*i32", "bias_ptr": "*fp32",
            "up_bias_ptr": "*fp32", "residual_ptr": f"*{dtype}", "out_ptr": f"*{dtype}", "gate_ptr": f"*{dtype}",
            "up_ptr": f"*{dtype}",
        },
        constants={
            "WEIGHT_TYPE": "int8" if scaled else {"bf16": "bfloat16", "fp32": "float32"}[dtype], "OVER": over,
            "SUMMED": summed, "GATED": gated, "SCALED": scaled, "ACTIVATION": activation if over else 0,
            "HAS_BIAS": bias, "HAS_UP_BIAS": False, "HAS_RESIDUAL": residual, "KEEP_GATE": keep,
            "KEEP_UP": keep and gated, "PATH": path, "WIDE": False, "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n, "BLOCK_K": BLOCK_K, "GROUP_M": GROUP_M, "FIELDS": FIELDS,
        },
        warps=config.warps,
        stages=stages_of(config, architecture),
        tensor_core=dtype != "fp32",
        wide_share=_wide_share(config, path, scaled),
        in_quick=in_quick,
    )  # fmt: skip


def _wide_share(config: Config, path: int, scaled: int) -> float:
    if path == ANY or scaled == 2:
        return 0.0
    if scaled:
        return 0.15  # scales come four bytes at a time
    return 0.75 if config.block_m >= 64 else 0.4


def _weight_gradients(architecture: str) -> Iterator[Case]:
    for cut, path in ((0, path_of(architecture)), (1, path_of(architecture)), (0, ANY)):
        config = UNALIGNED_GRADIENT_CONFIG if path == ANY else GRADIENT_CONFIG
        label = f"{'columns' if cut == 0 else 'rows'}{', unaligned' if path == ANY else ''}"
        yield Case(
            name=f"dW {config.block_m}x{config.block_n} {config.warps}w {config.stages}s {label}",
            kernel=("kernels.triton_sharded_linear", "weight_gradient_kernel"),
            architecture=architecture,
            pointers={"dz_ptr": "*bf16", "x_ptr": "*bf16", "table_ptr": "*i64", "tiles_ptr": "*i32"},
            constants={
                "OUT_TYPE": "bfloat16", "CUT": cut, "PATH": path, "WIDE": False, "BLOCK_N": config.block_m,
                "BLOCK_C": config.block_n, "BLOCK_K": BLOCK_K, "FIELDS": FIELDS,
            },
            warps=config.warps,
            stages=stages_of(config, architecture),
            tensor_core=True,
            wide_share=0.0 if path == ANY else 0.75,
            in_quick=cut == 0 and path != ANY,
        )  # fmt: skip


def _codecs(architecture: str) -> Iterator[Case]:
    for way, pointers in (
        ("split", {"words_ptr": "*i16", "base_ptr": "*i16", "planes_ptr": "*u8"}),
        ("join", {"planes_ptr": "*u8", "base_ptr": "*i16", "words_ptr": "*i16"}),
    ):
        for has_base in (True, False):
            yield Case(
                name=f"planes {way}{', xor' if has_base else ''}",
                kernel=("kernels.triton_plane_codec", f"{way}_kernel"),
                architecture=architecture,
                pointers=pointers,
                constants={"ITEM_BYTES": 2, "HAS_BASE": has_base, "ALIGNED": True, "BLOCK": BLOCK},
                warps=HIP_WARPS if architecture.startswith("gfx") else WARPS,
                stages=1,
                tensor_core=False,
                wide_share=0.6,
                in_quick=has_base,
            )


def _moments(architecture: str) -> Iterator[Case]:
    for dtype, has_cap in (("bf16", False), ("bf16", True), ("fp32", False)):
        tile = moments.tile_of(torch.float32 if dtype == "fp32" else torch.bfloat16)
        yield Case(
            name=f"moments partial {dtype}{', soft-cap' if has_cap else ''}",
            kernel=("kernels.triton_logprob_moments", "_partial_kernel"),
            architecture=architecture,
            pointers={
                "hidden_ptr": f"*{dtype}", "head_ptr": f"*{dtype}", "targets_ptr": "*i64", "partial_ptr": "*fp32",
            },
            constants={
                "HAS_CAP": has_cap, "SLICE_WORDS": moments._SLICE_WORDS, "BLOCK_B": tile.rows, "BLOCK_T": tile.words,
                "BLOCK_C": tile.columns, "INTERPRET": False,
            },
            scalars={"before_cap": "fp32", "after_cap": "fp32"},
            divisible=("rows", "words", "width", "hidden_stride", "head_stride"),
            warps=4,
            stages=tile.stages,
            tensor_core=dtype != "fp32",
            wide_share=0.75,
            in_quick=dtype == "bf16" and not has_cap,
        )  # fmt: skip
    yield Case(
        name="moments merge",
        kernel=("kernels.triton_logprob_moments", "_merge_kernel"),
        architecture=architecture,
        pointers={"partial_ptr": "*fp32", "out_ptr": "*fp32"},
        constants={"BLOCK_B": moments._MERGE_B},
        divisible=("rows",),
        warps=4,
        stages=3,
        tensor_core=False,
        wide_share=0.0,
        in_quick=True,
    )


def _scores(architecture: str) -> Iterator[Case]:
    yield Case(
        name="scores of sequences",
        kernel=("kernels.triton_perturbation_score", "_sequence_kernel"),
        architecture=architecture,
        pointers={"moments_ptr": "*fp32", "rows_ptr": "*i64", "starts_ptr": "*i64", "sums_ptr": "*fp64"},
        constants={"BLOCK_R": scores._BLOCK_R},
        warps=4,
        stages=3,
        tensor_core=False,
        wide_share=0.0,
        in_quick=True,
    )
    yield Case(
        name="scores of probes",
        kernel=("kernels.triton_perturbation_score", "_probe_kernel"),
        architecture=architecture,
        pointers={"sums_ptr": "*fp64", "starts_ptr": "*i64", "out_ptr": "*fp64"},
        constants={"BLOCK_S": scores._BLOCK_S},
        warps=4,
        stages=3,
        tensor_core=False,
        wide_share=0.0,
        in_quick=True,
    )
