"""How many threads a rank computes with: its share of the cores its node gives the job."""

from __future__ import annotations

import os


def threads_per_rank(ranks_on_node: int, cpus_per_rank: int) -> int:
    """In a Slurm job the `cpus_per_rank` it asked for; elsewhere an even share of the cores this process may use.

    A laptop's serial run thus uses all cores and two ranks half each: what is compared is the best use of the
    same machine.
    """
    if "SLURM_JOB_ID" in os.environ:
        return cpus_per_rank
    return max(1, len(os.sched_getaffinity(0)) // ranks_on_node)
