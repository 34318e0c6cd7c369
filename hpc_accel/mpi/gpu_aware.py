"""Does this MPI take device memory? Asked, not guessed, and then tried out.

1. The library says so: Open MPI and MPICH answer MPIX_Query_cuda_support, Cray, Intel and MVAPICH are switched on
   by a variable of the environment. HPC_ACCEL_MPI_GPU_AWARE=0 switches it off.
2. A message between device buffers arrives intact, in a child process: an MPI that is not aware crashes on them.

Only if both hold on all ranks of a group does its device memory go straight in; else it is staged (staging.py).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import lru_cache
from typing import Any

import numpy as np

from hpc_accel.mpi.launch import mpi, world

VARIABLES = ("MPICH_GPU_SUPPORT_ENABLED", "I_MPI_OFFLOAD", "MV2_USE_CUDA", "MV2_USE_ROCM", "MVP_USE_CUDA")
SWITCH = "HPC_ACCEL_MPI_GPU_AWARE"
QUERIES = {"cuda": ("MPIX_Query_cuda_support",), "xpu": ("MPIX_Query_ze_support",)}
TRIAL_TIMEOUT_S = 120
# The child is a job of one rank: it must not take itself for a rank of ours.
LAUNCHER_PREFIXES = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "PALS_", "HYDRA_", "SLURM_", "MPI_LOCAL")
TRIAL = """
import torch
from mpi4py import MPI
device = torch.device({device!r}, {index})
source = torch.arange(100_000, dtype=torch.float32, device=device)
target = torch.zeros_like(source)
torch.accelerator.synchronize()
at = lambda t: [MPI.buffer.fromaddress(t.data_ptr(), t.nbytes), MPI.BYTE]
MPI.COMM_SELF.Sendrecv(at(source), 0, recvbuf=at(target), source=0)
MPI.COMM_SELF.Allreduce(MPI.IN_PLACE, [MPI.buffer.fromaddress(target.data_ptr(), target.nbytes), MPI.FLOAT])
torch.accelerator.synchronize()
raise SystemExit(0 if torch.equal(source, target) else 3)
"""


@lru_cache(maxsize=8)
def claimed(device_type: str) -> bool:
    """Whether the library or the site says that device memory is welcome."""
    if os.environ.get(SWITCH) == "0":
        return False
    if any(os.environ.get(name, "0") not in {"", "0"} for name in VARIABLES):
        return True
    import torch

    names = ("MPIX_Query_rocm_support",) if torch.version.hip else QUERIES.get(device_type, ())
    library = ctypes.CDLL(mpi().__file__)
    for name in names:
        query = getattr(library, name, None)
        if query is not None and query() == 1:
            return True
    return False


@lru_cache(maxsize=8)
def verified(device_type: str, index: int) -> bool:
    """Whether device buffers really went through, tried in a child process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_PREFIXES)}
    try:
        trial = subprocess.run(
            [sys.executable, "-c", TRIAL.format(device=device_type, index=index)],
            env=environment,
            timeout=TRIAL_TIMEOUT_S,
            capture_output=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return trial.returncode == 0


def here() -> bool:
    """The answer for this rank's accelerator; False without one."""
    import torch

    if not torch.accelerator.is_available():
        return False
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or not claimed(accelerator.type):
        return False
    # This rank's own device: the current one is still device 0 on every rank, which would all try it at once.
    return verified(accelerator.type, world().device().index)


def agreed(comm: Any) -> tuple[bool, bool]:
    """Whether device memory goes straight in on all ranks of `comm`, and whether all or none have an accelerator.

    Collective over every group, because a rank without an accelerator cannot know that others have one.
    """
    import torch

    world()  # collective at its first call, so not only where there is an accelerator
    has = int(torch.accelerator.is_available())
    answers = np.array([int(here()) if has else 0, has, -has], dtype=np.int32)
    comm.Allreduce(mpi().IN_PLACE, answers, op=mpi().MIN)
    return bool(answers[0]), int(answers[1]) == -int(answers[2])
