"""Faults planted on demand in the code that ships, for tests of what parity says of them.

`HPC_ACCEL_PLANT=kind[@rank]`, honoured only with HPC_ACCEL_TESTING=1. A fault stands where the real one would: in the
sampler, in the loss, behind backward, before the optimizer.
"""

from __future__ import annotations

import os

VARIABLE = "HPC_ACCEL_PLANT"
KINDS = (
    "gradient_doubled",
    "mean_per_rank",
    "loss_divided_twice",
    "micro_batch_dropped",
    "replica_not_averaged",
    "one_parameter_lost",
    "stale_stage",
    "update_scaled",
    "norm_per_rank",
    "sampler_repeats",
    "one_mask",
    "other_data",
    "other_weights",
    "statistics_twice",
    "out_of_memory",
)


def is_on(kind: str, rank: int | None = None) -> bool:
    """Whether the fault `kind` was asked for, and asked for on this rank if it names one."""
    wanted = os.environ.get(VARIABLE, "")
    if not wanted or os.environ.get("HPC_ACCEL_TESTING") != "1":
        return False
    name, _, where = wanted.partition("@")
    if name not in KINDS:
        raise ValueError(f"{VARIABLE} {wanted!r}: kinds are {', '.join(KINDS)}")
    return name == kind and (not where or rank is None or int(where) == rank)
