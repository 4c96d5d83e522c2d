from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.kernels import aot_listing as listing
from bench.kernels.aot_machines import MACHINES, blocks_per_processor
from bench.kernels.aot_roofline import roofline_rows

has_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed here")

SASS = """
	.headerflags	@"EF_CUDA_TEXMODE_UNIFIED"
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E.U16 R2, desc[UR4][R2.64] ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   LDGSTS.E.BYPASS.128 [R3], desc[UR4][R4.64] ;
        /*0040*/              @!P1 LDG.E R5, desc[UR4][R6.64] ;
        /*0050*/                   HMMA.16816.F32.BF16 R8, R12, R16, R8 ;
        /*0060*/                   UTMALDG.2D [UR8], [UR4] ;
        /*0070*/               @P2 BRA `(.L_x_1) ;
        /*0080*/                   BRA `(.L_x_2) ;
        /*0090*/                   STL [R1], R2 ;
        /*00a0*/                   RED.E.ADD.F32.FTZ.RN.STRONG.GPU desc[UR4][R2.64], R5 ;
        /*00b0*/                   ATOMG.E.EXCH.STRONG.GPU PT, R9, desc[UR4][R2.64], R5 ;
        /*00c0*/                   REDUX.SUM UR4, R2 ;
.L_x_2:
        /*00d0*/                   EXIT ;
"""

GCN = """
kernel:
	s_load_dwordx2 s[0:1], s[4:5], 0x0
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
	global_load_dwordx4 v[0:3], v[4:5], off
	buffer_load_ushort v6, v7, s[0:3], 0 offen
	v_mfma_f32_32x32x8_bf16 a[0:15], v[0:1], v[2:3], a[0:15]
	s_cbranch_scc1 .LBB0_1
	scratch_store_dword off, v0, s0
	global_atomic_add_f32 v0, v1, s[0:1]
	s_endpgm
"""


def test_the_inner_loop_is_the_one_that_multiplies() -> None:
    read = listing.read(SASS)
    assert len(read.opcodes) == 14
    assert [read.opcodes[first] for first, _ in read.loops] == ["LDG.E.U16", "LDGSTS.E.BYPASS.128"]
    inner = read.inner_loop()
    assert listing.count(inner, listing.TENSOR_CORE) == 1
    assert listing.load_widths(inner) == {4: 1, 16: 1, listing.TMA_BYTES: 1}
    assert listing.load_widths(read.opcodes)[2] == 1
    assert listing.count(read.opcodes, listing.LOCAL) == 1
    assert listing.count(read.opcodes, listing.ATOMIC) == 1  # an exchange adds nothing up, REDUX stays in the warp


def test_the_assembly_of_gfx942_is_read_too() -> None:
    read = listing.read(GCN)
    inner = read.inner_loop()
    assert listing.count(inner, listing.TENSOR_CORE) == 1
    assert listing.load_widths(inner) == {2: 1, 16: 1}
    assert listing.wide_share(listing.load_widths(inner)) == 16 / 18
    assert (listing.count(read.opcodes, listing.LOCAL), listing.count(read.opcodes, listing.ATOMIC)) == (1, 1)


@pytest.mark.parametrize(
    ("architecture", "registers", "shared_bytes", "warps", "blocks"),
    [
        ("sm_80", 255, 0, 8, 1),
        ("sm_80", 128, 0, 8, 2),
        ("sm_80", 32, 0, 8, 8),
        ("sm_80", 32, 163 << 10, 8, 1),
        ("sm_80", 32, 164 << 10, 8, 0),
        ("sm_90", 168, 74_784, 4, 3),
        ("gfx942", 128, 0, 4, 4),
        ("gfx942", 129, 0, 4, 3),
        ("gfx942", 64, 40 << 10, 4, 1),
    ],
)
def test_occupancy_is_bounded_by_what_runs_out_first(
    architecture: str, registers: int, shared_bytes: int, warps: int, blocks: int
) -> None:
    machine = MACHINES[architecture]
    assert blocks_per_processor(machine, registers=registers, shared_bytes=shared_bytes, warps=warps) == blocks


def test_the_roofline_takes_the_largest_floor() -> None:
    rows = {(row["machine"], row["kernel"], row["shape"]): row for row in roofline_rows()}
    one = rows["H100", "product", "M 1, K 4096, N 14336"]
    assert (one["bound"], one["floor_us"]) == ("memory", pytest.approx(2 * 4096 * 14336 / 3.35e12 * 1e6, rel=1e-3))
    many = rows["H100", "product", "M 4096, K 4096, N 14336"]
    assert (many["bound"], many["floor_us"]) == ("tensor", pytest.approx(2 * 4096**2 * 14336 / 989e12 * 1e6, rel=1e-3))
    assert rows["H100", "moments", "M 2048, H 576, V 49152"]["alu_us"] == pytest.approx(48.07, rel=1e-2)


@has_triton
def test_the_gate_passes_a_good_kernel_and_refuses_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bench.kernels import aot_compile  # noqa: PLC0415  # needs Triton
    from bench.kernels.aot_cases import Case, cases  # noqa: PLC0415

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(aot_compile, "CACHE", tmp_path)
    good = next(case for case in cases() if case.architecture == "sm_80" and case.name == "planes split")
    atomic = Case(
        "atomic", ("refused_kernels", "adds_atomically"), "sm_80", {"x_ptr": "*fp32", "sum_ptr": "*fp32"},
        {"BLOCK": 1024}, 4, 1, tensor_core=True, wide_share=0.0,
    )  # fmt: skip
    narrow = replace(
        atomic, name="narrow", kernel=("refused_kernels", "loads_narrowly"), architecture="gfx942",
        pointers={"x_ptr": "*fp32", "y_ptr": "*fp32"}, tensor_core=False, wide_share=0.75,
    )  # fmt: skip
    broken = replace(atomic, name="broken", pointers={"x_ptr": "*fp32"})
    chosen = [good, atomic, narrow, broken]
    found = {one.name: one for one in aot_compile.compile_all(chosen, parallel=2, limit_s=300.0)}
    assert found["planes split"].faults == []
    assert found["planes split"].registers > 0
    assert found["atomic"].faults == ["1 atomics", "no tensor-core instruction in the inner loop"]
    assert found["narrow"].faults == ["0.00 of loaded bytes are wide, expected 0.75"]
    assert len(found["broken"].faults) == 1
    assert "Error" in found["broken"].faults[0]
    again = {one.name: one for one in aot_compile.compile_all(chosen[:3], parallel=2, limit_s=0.0)}
    assert again == {name: one for name, one in found.items() if name != "broken"}
    (late,) = aot_compile.compile_all([broken], parallel=1, limit_s=0.0)
    assert late.faults == ["not compiled within 0 s"]


@has_triton
def test_every_kernel_has_a_quick_case_for_each_architecture() -> None:
    from bench.kernels.aot_cases import ARCHITECTURES, cases  # noqa: PLC0415

    every: list[Any] = list(cases())
    names = {(case.kernel, case.architecture) for case in every}
    assert names == {(case.kernel, architecture) for case in every for architecture in ARCHITECTURES}
    assert names == {(case.kernel, case.architecture) for case in every if case.in_quick}
    kernels = Path(__file__).parents[2] / "kernels"
    written = {
        (f"kernels.{path.stem}", line.split("(")[0].removeprefix("def "))
        for path in kernels.glob("triton_*.py")
        for line in path.read_text("utf-8").splitlines()
        if line.startswith("def ") and "_kernel(" in line
    }
    assert {case.kernel for case in every} == written
    assert len({(case.name, case.architecture) for case in every}) == len(every)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_machine_without_a_gpu_is_told_so_in_one_line() -> None:
    done = subprocess.run([sys.executable, "-m", "bench.kernels"], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "no GPU here: `python -m bench.kernels cpu` measures the CPU paths, `aot` compiles"
    ]
