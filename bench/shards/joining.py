"""A thousand nodes join one download: the swarm's scheduler on simulated links of 100 Mbit/s, in virtual time.

The bound is what one link takes for all of it: the seeder has to send everything once, and each node to take it once.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Final

from .joining_links import Links, Plan
from .table import Row

FULL: Final = Plan(nodes=1000, contents=128)
QUICK: Final = Plan(nodes=40, contents=32)
TARGET: Final = 2.5


def joining_rows(quick: bool) -> list[Row]:  # noqa: FBT001  # the signature of every row
    """One row: time until the last node has all, as a multiple of the time that one link takes."""
    plan = QUICK if quick else FULL
    began = time.perf_counter()
    joined = Links(plan).run()
    wall_s = time.perf_counter() - began
    return [
        Row(
            f"{plan.nodes} nodes join one download: time to all",
            max(joined.done_s) / plan.one_link_s,
            "x one",
            TARGET,
            at_least=False,
            beside={
                "time of the median node": median(joined.done_s) / plan.one_link_s,
                "one link, s": plan.one_link_s,
                "size, MB": plan.total_bytes / 1e6,
                "links of a node, on average": 2.0 * plan.degree,
                "copies that the seeder sent": joined.seeder_bytes / plan.total_bytes,
                "bytes that came for nothing, share": joined.wasted_bytes / plan.total_bytes / plan.nodes,
                "simulated in, s": wall_s,
            },
        )
    ]
