"""Batches of every size once, before anything is timed.

Open loop serves whatever waits, so it meets every size up to the batch size; libraries load and choose kernels at the
first batch of a size, which takes 1 to 100 ms on a GPU. A percentile must not contain that.
"""

from __future__ import annotations

import torch

from hpc_accel.infer.setup import Session

MAX_SIZES = 32
"""Up to this batch size all smaller ones are run; beyond, powers of two: neighbours mostly share their kernels."""


def sizes_met(batch_size: int, *, fixed_size: bool) -> list[int]:
    """The sizes to run, ascending. A model of fixed size pads what is smaller, so it knows one only."""
    if fixed_size:
        return [batch_size]
    if batch_size <= MAX_SIZES:
        return list(range(1, batch_size + 1))
    return [*(1 << power for power in range((batch_size - 1).bit_length())), batch_size]


def run_sizes(session: Session) -> None:
    """One batch of each size on every replica. Collective."""
    sizes = sizes_met(session.infer.batch_size, fixed_size=session.model.fixed_size)

    def work() -> None:
        for size in sizes:
            session.replica.run(session.samples(torch.arange(size)))

    session.replica.drive(work)
