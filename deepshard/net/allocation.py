"""How the C library treats memory that a link frees.

Every mebibyte that arrives is allocated in pieces, joined, handed on and freed. By default glibc gives such memory back
to the kernel at once and fetches it again, page by page, for the next frame: that took a tenth of the processor time of
bulk (2 vCPUs, glibc 2.36).
"""

from __future__ import annotations

import ctypes
from typing import Final

from deepshard.limits import MIB

KEPT_BYTES_MAX: Final = 64 * MIB
MAPPED_BYTES_MIN: Final = 16 * MIB
"""Larger than any frame: what is larger gets pages of its own, which are given back when it is freed."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Keep up to `KEPT_BYTES_MAX` of what was freed for what comes next; False where the C library can't."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    options = ((_M_TRIM_THRESHOLD, KEPT_BYTES_MAX), (_M_MMAP_THRESHOLD, MAPPED_BYTES_MIN))
    return all(set_option(option, value) == 1 for option, value in options)
