"""fp32 products of weights that are bf16 numbers, on a processor's bf16 matrix units (AMX), without losing a digit.

An fp32 number is the sum of three bf16 numbers: x rounded to 8 digits, the rest rounded to 8, and what then remains,
which has 8 or fewer. A product of two bf16 numbers is exact in fp32, and the units add up in fp32. So three products of
bf16 matrices are one of fp32 matrices, provided that the weight's numbers are bf16, as those of a stored model are
(splitting after Henry, Tang and Heinecke, arXiv 1904.06376). Measured on a Xeon with AMX, one thread: 390 GFLOP/s
where fp32 products reach 190 to 200, and a largest error of 2e-7 of the largest result, where theirs is 5e-7. Numbers
below 1e-30 may lose their last digits: the units take denormal pieces for 0.

Which way a product goes depends on the processor and on the numbers of the weight, never on the type that they are
stored in: an fp32 tensor that holds bf16 numbers is taken the same way.

torch has no such product on the CPU (bf16 in, fp32 out), but the wheel's matrix library has, under its public name.
Where it or the units are missing, products are fp32's own.

Shape suffixes: M rows, K input columns, N output columns, P pieces, B rows that are split at once.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

_PIECES: Final = 3
_BLOCK_ELEMENTS: Final = 1 << 16
"""Numbers that are split at once, so that the passes find them in the cache."""
_ROW_MAJOR: Final = 101
_AS_IT_IS: Final = 111
_TRANSPOSED: Final = 112
_TRIAL_TOLERANCE: Final = 1e-6

_Gemm = Callable[..., None]


@cache
def units() -> str:
    """`AMX`, or nothing where there are no matrix units that this module can use."""
    return "AMX" if _gemm() is not None else ""


@cache
def _gemm() -> _Gemm | None:
    """The library's bf16 product into fp32, if the processor has matrix units and a trial comes out right."""
    if sys.platform != "linux" or not torch.cpu._is_amx_tile_supported():  # noqa: SLF001  # it has no public name
        return None
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        gemm = library.cblas_gemm_bf16bf16f32
    except (OSError, AttributeError):
        return None
    number, factor, address = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    gemm.argtypes = [
        *(number, number, number, number, number, number, factor),
        *(address, number, address, number, factor, address, number),
    ]
    gemm.restype = None
    generator = torch.Generator().manual_seed(0)
    x_MK, weight_NK = torch.randn(33, 70, generator=generator), torch.randn(40, 70, generator=generator).bfloat16()
    out_MN = torch.full((33, 40), torch.nan)
    _multiply(gemm, split(x_MK), weight_NK, out_MN, is_first=True)
    expected_MN = x_MK.double() @ weight_NK.double().T
    agrees = bool((out_MN - expected_MN).abs().max() <= _TRIAL_TOLERANCE * expected_MN.abs().max())
    return cast("_Gemm", gemm) if agrees else None


def split(x_MK: Tensor, pieces_PMK: Tensor | None = None) -> Tensor:
    """bf16 [3, M, K] whose sum is the fp32 input, into the given memory if there is any."""
    if pieces_PMK is None:
        pieces_PMK = torch.empty((_PIECES, *x_MK.shape), dtype=torch.bfloat16)
    rows, width = x_MK.shape
    step = max(1, _BLOCK_ELEMENTS // max(1, width))
    rest_BK, piece_BK = torch.empty((2, min(step, rows), width))
    for first in range(0, rows, step):
        block_BK = x_MK[first : first + step]
        rest, piece = rest_BK[: len(block_BK)], piece_BK[: len(block_BK)]
        left = block_BK
        for number in range(_PIECES):
            place = pieces_PMK[number, first : first + step]
            place.copy_(left)
            if number + 1 < _PIECES:
                piece.copy_(place)
                left = torch.sub(left, piece, out=rest)
    return pieces_PMK


def as_bf16(weight: Tensor) -> Tensor | None:
    """The weight's numbers as bf16, if that is what they are and all are finite (0 times infinity would be NaN)."""
    rounded = weight if weight.dtype == torch.bfloat16 else weight.to(torch.bfloat16)
    if rounded is not weight and not torch.equal(rounded.to(weight.dtype), weight):
        return None
    return rounded if bool(torch.isfinite(rounded.sum(dtype=torch.float32))) else None


def _multiply(gemm: _Gemm, pieces_PMK: Tensor, weight_NK: Tensor, out_MN: Tensor, *, is_first: bool) -> None:
    """`out = x W^T`, or that added to it. The smallest pieces come first, so that fewer of their digits are lost."""
    rows, width = pieces_PMK.shape[1:]
    assert weight_NK.stride(1) == out_MN.stride(1) == pieces_PMK.stride(2) == 1
    weight = (weight_NK.data_ptr(), max(1, weight_NK.stride(0)))
    out = (out_MN.data_ptr(), out_MN.stride(0))
    form = (_ROW_MAJOR, _AS_IT_IS, _TRANSPOSED, rows, weight_NK.shape[0], width)
    for number in reversed(range(len(pieces_PMK))):
        piece_MK = pieces_PMK[number]
        kept = 0.0 if is_first else 1.0
        gemm(*form, 1.0, piece_MK.data_ptr(), piece_MK.stride(0), *weight, kept, *out)
        is_first = False


class LeftFactor:
    """fp32 rows that are multiplied by many weights, each sum over the columns in panels of a fixed width.

    Args:
        x_MK: the rows, which must not change while the factor is in use.
        panel_columns: most columns of a panel.
    """

    def __init__(self, x_MK: Tensor, panel_columns: int) -> None:
        width = max(x_MK.shape[1], 1)
        self._spans = [slice(start, start + panel_columns) for start in range(0, width, panel_columns)]
        self._gemm = _gemm() if x_MK.numel() else None
        # Either the pieces are kept or the rows, and both only where weights of both kinds come.
        self._pieces_PMK = None if self._gemm is None else split(x_MK)
        self._x_MK = x_MK if self._gemm is None else None

    def times(self, weight_NK: Tensor, as_fp32: Callable[[], Tensor], out_MN: Tensor) -> None:
        """`out = x W^T`; `as_fp32` gives the weight as fp32 numbers if they aren't bf16, or no units are there."""
        if self._gemm is not None and self._pieces_PMK is not None and len(weight_NK) == out_MN.shape[1]:
            exact_NK = as_bf16(weight_NK)
            if exact_NK is not None:
                for span in self._spans:
                    pieces_PMK = self._pieces_PMK[:, :, span]
                    _multiply(self._gemm, pieces_PMK, exact_NK[:, span], out_MN, is_first=span.start == 0)
                return
        weight_NK, x_MK = as_fp32(), self._rows()
        for span in self._spans:
            if span.start:
                torch.addmm(out_MN, x_MK[:, span], weight_NK[:, span].T, out=out_MN)
            else:
                torch.mm(x_MK[:, span], weight_NK[:, span].T, out=out_MN)

    def _rows(self) -> Tensor:
        if self._x_MK is None:
            assert self._pieces_PMK is not None
            first, *others = self._pieces_PMK.float()
            self._x_MK = sum(others, start=first)
        return self._x_MK


class _Known(threading.local):
    """A thread's memory for pieces, and the rows whose pieces it holds."""

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.bfloat16)
        self.x: Tensor | None = None
        self.pieces_PMK = self.memory


_known: Final = _Known()
_weights: Final[Any] = WeakIdKeyDictionary()
_weights_lock: Final = threading.Lock()


@contextmanager
def exact_linears() -> Iterator[None]:
    """Within it, this thread's `torch.nn.functional.linear` of fp32 on the CPU goes by the matrix units where it may.

    For inference: a gradient doesn't pass. A weight is known again by its memory and version, for as long as it lives;
    rows are known again while they are the same tensor, so a model must not change them between two linears.
    """
    gemm = _gemm()
    if gemm is None:
        yield
        return
    try:
        with _Linears(gemm):
            yield
    finally:
        _known.x = None


class _Linears(TorchFunctionMode):
    def __init__(self, gemm: _Gemm) -> None:
        super().__init__()
        self._gemm = gemm

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # part of the interface
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # whatever the function returns
        if func is torch.nn.functional.linear and not kwargs and _is_plain(*args[:2]):
            exact_NK = _known_weight(args[1])
            if exact_NK is not None:
                return self._linear(args[0], exact_NK, args[2] if len(args) > 2 else None)
        return func(*args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        if _known.x is not x:  # several weights often take the same rows
            x_MK = x.reshape(-1, x.shape[-1])
            needed = _PIECES * x_MK.numel()
            if _known.memory.numel() < needed:
                with torch.inference_mode(mode=False):  # so that it can be written to in either mode
                    _known.memory = torch.empty(needed, dtype=torch.bfloat16)
            _known.pieces_PMK = split(x_MK, _known.memory[:needed].view(_PIECES, *x_MK.shape))
            _known.x = x
        out = x.new_empty((*x.shape[:-1], weight_NK.shape[0]))
        _multiply(self._gemm, _known.pieces_PMK, weight_NK, out.view(-1, out.shape[-1]), is_first=True)
        return out if bias_N is None else out.add_(bias_N)


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and weight.dim() == 2
        and weight.stride(1) == 1
        and x.numel() > 0
        and weight.numel() > 0
    )


def _known_weight(weight: Tensor) -> Tensor | None:
    if weight.is_inference():  # it has no version, so a change in place wouldn't be noticed
        return as_bf16(weight)
    state = (weight.data_ptr(), weight._version)  # noqa: SLF001  # there is no public name for it
    with _weights_lock:
        known = _weights.get(weight)
        if known is None or known[0] != state:
            exact_NK = as_bf16(weight.detach())
            known = _weights[weight] = (state, None if exact_NK is None else exact_NK.contiguous())
    return cast("Tensor | None", known[1])
