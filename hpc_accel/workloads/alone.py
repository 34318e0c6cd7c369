"""A world of one rank: a model or a loss that talks to other ranks is tried out by one process, and hears itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def world_of_one() -> Iterator[None]:
    """Inside, torch's default process group is there: that of the ranks where there is one, else one of this rank."""
    if not dist.is_available() or dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
