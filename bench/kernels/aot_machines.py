"""What decides occupancy and the roofline on each architecture the kernels are compiled for.

Rates are the vendors' for dense products without sparsity, of A100 SXM 80 GB, H100 SXM, B200 and MI300X.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Machine:
    backend: str
    capability: int | str
    name: str
    lanes: int
    """Threads to a warp or wave."""
    processors: int
    warps: int
    """That one processor holds."""
    blocks: int
    shared_bytes: int
    shared_reserved_bytes: int
    """Taken by the driver for each block."""
    tensor_flops: float
    """bf16 in, fp32 out."""
    alu_ops: float
    """fp32 instructions a second, over all lanes."""
    special_ops: float
    """exp2 and such a second, over all lanes."""
    bytes_per_s: float


MACHINES: Final = {
    "sm_80": Machine("cuda", 80, "A100", 32, 108, 64, 32, 164 << 10, 1024, 312e12, 9.7e12, 2.4e12, 2.04e12),
    "sm_90": Machine("cuda", 90, "H100", 32, 132, 64, 32, 228 << 10, 1024, 989e12, 33.5e12, 3.9e12, 3.35e12),
    "sm_100": Machine("cuda", 100, "B200", 32, 148, 64, 32, 228 << 10, 1024, 2250e12, 40e12, 4.4e12, 8.0e12),
    "gfx942": Machine("hip", "gfx942", "MI300X", 64, 304, 32, 32, 64 << 10, 0, 1307e12, 81e12, 20e12, 5.3e12),
}


def blocks_per_processor(machine: Machine, *, registers: int, shared_bytes: int, warps: int) -> int:
    """Blocks of a kernel that one processor holds at once: bounded by registers, shared memory, warps and blocks."""
    if machine.backend == "cuda":
        per_warp = -(-registers * machine.lanes // 256) * 256  # registers are given to a warp in units of 256
        by_registers = 65536 // (per_warp * warps)
    else:
        waves = min(8, 512 // max(8, -(-registers // 8) * 8))  # of one of four SIMDs; registers in units of 8 a lane
        by_registers = 4 * waves // warps
    taken = shared_bytes + machine.shared_reserved_bytes
    by_shared = machine.shared_bytes // taken if taken else machine.blocks
    return min(by_registers, by_shared, machine.warps // warps, machine.blocks)
