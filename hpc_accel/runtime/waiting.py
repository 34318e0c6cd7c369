"""How ranks wait for the one that still computes, and how often power is sampled while they do or do not."""

from __future__ import annotations

import time
from typing import Any

SAMPLE_HZ = 10.0
"""How often power is sampled; a full buffer of samples thins itself."""


def quiet_barrier(comm: Any, poll_s: float = 0.01) -> None:
    """Wait for all ranks without spinning, so that the one that still computes has the cores to itself."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(poll_s)
