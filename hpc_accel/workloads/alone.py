"""A world of one rank: a model or a loss that talks to other ranks is tried out by one process, and hears itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode


class Talks(TorchDispatchMode):
    """Notes by which operations what runs inside talks to other ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: tuple[str, ...] = ()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Of each operation of torch."""
        if func.namespace in ("c10d", "_c10d_functional"):
            self.operations += (func.overloadpacket.__name__.rstrip("_"),)
        return func(*args, **(kwargs or {}))


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
