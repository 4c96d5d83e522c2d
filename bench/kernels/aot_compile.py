"""Compiles one case without a GPU and says what came of it; each in a process of its own, with a time limit."""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import aot_listing as listing
from . import aot_machines
from .aot_cases import Case
from .aot_machines import MACHINES, blocks_per_processor

CACHE: Final = Path("build/aot")
_BIN: Final = Path(triton.__file__).parent / "backends/nvidia/bin"


@dataclass(slots=True)
class Found:
    """What a compilation shows; `faults` is empty where the gate is passed."""

    name: str
    architecture: str
    seconds: float = 0.0
    registers: int = 0
    spill_bytes: int = 0
    shared_bytes: int = 0
    blocks: int = 0
    occupancy: float = 0.0
    tensor_core: int = 0
    """Tensor-core instructions in the inner loop."""
    instructions: int = 0
    loads: dict[int, int] = field(default_factory=dict)
    """Global loads of the inner loop (of the kernel, if it has none) by bytes a thread."""
    wide_share: float = 0.0
    local: int = 0
    atomics: int = 0
    faults: list[str] = field(default_factory=list)


def found_of(case: Case) -> Found:
    """Compile here and read the listing."""
    machine = MACHINES[case.architecture]
    started = time.perf_counter()
    compiled = compile_case(case)
    found = Found(case.name, case.architecture, seconds=round(time.perf_counter() - started, 2))
    if machine.backend == "cuda":
        text = _read_cubin(compiled.asm["cubin"], found)
    else:
        text = compiled.asm["amdgcn"]
        _read_metadata(text, found)
    found.shared_bytes += compiled.metadata.shared
    found.blocks = blocks_per_processor(
        machine, registers=found.registers, shared_bytes=found.shared_bytes, warps=case.warps
    )
    found.occupancy = round(found.blocks * case.warps / machine.warps, 3)
    read = listing.read(text)
    inner = read.inner_loop() if case.tensor_core else read.opcodes
    found.instructions = len(inner)
    found.tensor_core = listing.count(inner, listing.TENSOR_CORE)
    found.loads = listing.load_widths(inner)
    found.wide_share = round(listing.wide_share(found.loads), 3)
    found.local = listing.count(read.opcodes, listing.LOCAL)
    found.atomics = listing.count(read.opcodes, listing.ATOMIC)
    found.faults = faults(case, found)
    return found


def compile_case(case: Case) -> Any:  # noqa: ANN401  # Triton is untyped
    """Triton's compiled kernel."""
    function = getattr(importlib.import_module(case.kernel[0]), case.kernel[1])
    signature, constants, attributes = {}, {}, {}
    for number, name in enumerate(function.arg_names):
        if name in case.pointers:
            signature[name] = case.pointers[name]
            attributes[(number,)] = [["tt.divisibility", 16]]
        elif name in case.constants:
            value = case.constants[name]
            signature[name] = "constexpr"
            constants[(number,)] = getattr(tl, value) if isinstance(value, str) else value
        else:
            signature[name] = case.scalars.get(name, "i32")
            if name in case.divisible:
                attributes[(number,)] = [["tt.divisibility", 16]]
    machine = MACHINES[case.architecture]
    return triton.compile(
        ASTSource(function, signature, constants, attributes),
        target=GPUTarget(machine.backend, machine.capability, machine.lanes),
        options={"num_warps": case.warps, "num_stages": case.stages, "enable_fp_fusion": False},
    )


def faults(case: Case, found: Found) -> list[str]:
    """What the gate refuses."""
    checks = {
        f"{found.spill_bytes} bytes spilled": found.spill_bytes,
        f"{found.local} accesses of local memory": found.local,
        f"{found.atomics} atomics": found.atomics,
        "no block fits a processor": found.blocks < 1,
        "no tensor-core instruction in the inner loop": case.tensor_core and not found.tensor_core,
        f"{found.wide_share:.2f} of loaded bytes are wide, expected {case.wide_share}": (
            found.wide_share < case.wide_share
        ),
    }
    return [fault for fault, is_so in checks.items() if is_so]


def _read_cubin(cubin: bytes, found: Found) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", file.name)
        text = _run("nvdisasm", "-c", file.name)
    values = dict(re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage))
    found.registers = int(values["REG"])
    found.spill_bytes = int(values["STACK"]) + int(values["LOCAL"])
    found.shared_bytes = int(values["SHARED"])
    return text


def _read_metadata(text: str, found: Found) -> None:
    values = {key: int(value) for key, value in re.findall(r"\.(\w+):\s+(\d+)$", text, re.MULTILINE)}
    found.registers = values["vgpr_count"] + values.get("agpr_count", 0)
    found.spill_bytes = 4 * values["vgpr_spill_count"] + values["private_segment_fixed_size"]


def _run(program: str, *arguments: str) -> str:
    return subprocess.run([str(_BIN / program), *arguments], capture_output=True, check=True, text=True).stdout


def _cache(case: Case) -> Path:
    """Where a result is kept: under a hash of everything that it depends on."""
    digest = hashlib.sha256(f"{triton.__version__} {case!r}".encode())
    kernel = importlib.import_module(case.kernel[0]).__file__
    for path in (kernel, __file__, listing.__file__, aot_machines.__file__):
        digest.update(Path(str(path)).read_bytes())
    return CACHE / f"{digest.hexdigest()[:32]}.json"


def compile_all(cases: Sequence[Case], *, parallel: int, limit_s: float) -> Iterator[Found]:
    """Results as they come: from the cache, or from up to `parallel` processes, each stopped at the limit."""
    context = multiprocessing.get_context("fork")
    waiting = list(cases)[::-1]
    running: dict[Connection, tuple[Case, Any, float]] = {}
    while waiting or running:
        while waiting and len(running) < parallel:
            case = waiting.pop()
            held = _cache(case)
            if held.exists():
                yield Found(**_with_widths(json.loads(held.read_text("utf-8"))))
                continue
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(case, sender))
            process.start()
            sender.close()
            running[receiver] = (case, process, time.monotonic() + limit_s)
        if not running:
            continue
        until = min(deadline for _, _, deadline in running.values())
        ready = wait(list(running), timeout=max(0.0, until - time.monotonic()))
        late = [one for one, (_, _, deadline) in running.items() if one not in ready and deadline <= time.monotonic()]
        for receiver in [one for one in running if one in ready or one in late]:
            case, process, _ = running.pop(receiver)
            if receiver in late:
                process.kill()
                yield Found(case.name, case.architecture, faults=[f"not compiled within {limit_s:.0f} s"])
            else:
                yield _received(receiver, case)
            process.join()


def _received(receiver: Connection, case: Case) -> Found:
    try:
        sent = receiver.recv_bytes().decode()
    except EOFError:
        return Found(case.name, case.architecture, faults=["the compiler ended without a result"])
    found = Found(**_with_widths(json.loads(sent)))
    if found.seconds:
        place = _cache(case)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(sent, "utf-8")
    return found


def _work(case: Case, sender: Connection) -> None:
    try:
        found = found_of(case)
    except Exception as error:  # noqa: BLE001  # whatever the compiler raises is this case's result
        found = Found(
            case.name, case.architecture, faults=[" ".join(f"{type(error).__name__}: {error}".split())[-300:]]
        )
    sender.send_bytes(json.dumps(asdict(found)).encode())


def _with_widths(held: dict[str, Any]) -> dict[str, Any]:
    return held | {"loads": {int(width): times for width, times in held["loads"].items()}}
