"""How many threads a rank computes with: its share of the cores its node gives the job."""

from __future__ import annotations

import os


def threads_per_rank(ranks_on_node: int) -> int:
    """Cores this process may use, divided by the ranks on the node, at least one.

    A launcher that binds each rank to its own cores has done the division already; then the affinity mask is
    smaller than the node and is used whole.
    """
    allowed = len(os.sched_getaffinity(0))
    if allowed < (os.cpu_count() or allowed):
        return max(1, allowed)
    return max(1, allowed // ranks_on_node)
