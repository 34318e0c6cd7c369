"""Everything an inference run needs before its first request: ranks, device, threads, weights, replicas, samples."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from hpc_accel.errors import ConfigError
from hpc_accel.infer.model import Form, InferenceModel, Tensors, build_inference_model
from hpc_accel.infer.replica import Replica
from hpc_accel.infer.weights import build_workload
from hpc_accel.parallel.mesh import rank_coordinates
from hpc_accel.runtime.device import mesh_device
from hpc_accel.runtime.stage_sizes import stage_sizes
from hpc_accel.runtime.start_ranks import RankSetup, start_ranks
from hpc_accel.study.infer_options import Infer
from hpc_accel.study.run import Run
from hpc_accel.workloads.nested import flattened
from hpc_accel.workloads.stream import spread_over
from hpc_accel.workloads.workload import Workload

POOL = 1024
"""Different samples that requests take turns with; they lie in memory before the first one arrives."""


@dataclass(frozen=True, kw_only=True)
class Session(RankSetup):
    """An inference run, set up on this rank."""

    infer: Infer
    workload: Workload
    split: tuple[int, ...] | None
    model: InferenceModel
    replica: Replica
    pool: Tensors
    startup_ms: dict[str, float]

    def samples(self, indices: torch.Tensor) -> Tensors:
        """The inputs of requests by their number; in pinned memory for a GPU, which copies them without a detour."""
        chosen = indices % len(self.pool[0])
        return tuple(gathered(each, chosen, pinned=self.device.type == "cuda") for each in self.pool)


def gathered(pool: torch.Tensor, chosen: torch.Tensor, *, pinned: bool) -> torch.Tensor:
    """Samples [n, ...] of `pool` in memory of their own: rows taken from a pinned pool would not be pinned.

    Torch keeps pinned memory for the next batch, and gives it out again only when copies from it are done.
    """
    if not pinned:
        return pool[chosen]
    batch = torch.empty(len(chosen), *pool.shape[1:], dtype=pool.dtype, device="cpu", pin_memory=True)
    return torch.index_select(pool, 0, chosen, out=batch)


def open_session(run: Run, infer: Infer, directory: Path, import_ms: float) -> Session:
    """Set up `run` on this rank. Collective over all ranks. Raises ConfigError when launch or recipe do not fit."""
    launch = start_ranks(run, directory)
    began, device, comm = time.perf_counter(), launch.device, launch.comm
    workload = build_workload(run, directory, comm)
    split = stage_sizes(run, workload, device, comm)
    place = rank_coordinates(run.layout, launch.rank, mesh_device(run, device))
    # Before the model is cut and cast: the data set is the same on every rank.
    pool, form = _pool(workload)
    model = build_inference_model(run, workload, split, place, device, form)
    replica = Replica(comm, model, tuple(each[0] for each in pool))
    built = time.perf_counter()
    return Session(
        **vars(launch),
        infer=infer,
        workload=workload,
        split=split,
        model=model,
        replica=replica,
        pool=pool,
        startup_ms={
            "imports": import_ms,
            "mpi_init": launch.mpi_init_ms,
            "model_build": (built - began) * 1e3,
        },
    )


def _pool(workload: Workload) -> tuple[Tensors, Form]:
    """The inputs of samples, tensor by tensor, and the form in which the model is called with them."""
    batch = workload.batch_of(range(len(spread_over(workload.dataset, POOL))))
    problem = "of tensors that do not all have the samples first"
    try:
        tensors, form = flattened((batch.args, batch.kwargs))
        if all(each.dim() and len(each) == batch.count for each in tensors):
            return tensors, form
    except ValueError as error:
        problem = f"that {error}"
    raise ConfigError(
        f"inference on a batch {problem}",
        "requests are gathered sample by sample from tensors [samples, ...], in tuples or dicts",
        "let dataset and collate return such",
    )
