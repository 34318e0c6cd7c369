"""References kept by the digest of what they were computed from, and computed once.

A reference is computed by `hpc-accel reference`, a process with a world of one: what the user's loss says to other
ranks it says to itself. The workflow starts it as a job of its own before the runs; a run that finds none starts it.
The digest covers the code and data as they show in the first weights and samples, the user's modules, the seed, the
batch, and how the batch is grouped or which arithmetic is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from hpc_accel.errors import ConfigError
from hpc_accel.files import read_json, write_atomically
from hpc_accel.parallel import planted
from hpc_accel.runtime.precision import AUTOCAST
from hpc_accel.runtime.seeded import Drawn, Seeded, digest_of_sample
from hpc_accel.study.references import RECORD, directory_of, reference_name
from hpc_accel.study.run import Run
from hpc_accel.study.sources import sources
from hpc_accel.train.parity.cut import changed_by_cut
from hpc_accel.train.parity.engine import build_still
from hpc_accel.train.parity.facts import digest_of_weights
from hpc_accel.train.parity.pieces import sampler_of
from hpc_accel.train.parity.reference import Kind, Reference, compute_variant, compute_whole
from hpc_accel.workloads.nested import HALVES
from hpc_accel.workloads.stream import Stream, num_samples_of
from hpc_accel.workloads.workload import Workload

FORMAT = 2
NUM_LOOKED_AT = 4
_COMMAND = "from hpc_accel.cli import main; main()"
LAUNCHERS = ("OMPI_", "PMI_", "PMIX_", "PRTE_", "PRTERUN", "MPI_", "HYDRA_", "SLURM_")
"""What a launcher tells its ranks: a process with a world of one must not take it for its own."""


@dataclass(frozen=True, kw_only=True)
class References:
    """What one run is compared with. `variants` are those that it needs beside `whole`."""

    whole: Reference
    variants: dict[Kind, Reference]

    @property
    def duration_s(self) -> float | None:
        """How long all of them took to compute; None where one did not note it."""
        times = [each.duration_s for each in (self.whole, *self.variants.values())]
        return sum(each for each in times if each is not None) if None not in times else None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A reference and where it is kept."""

    path: Path
    reference: Reference


def content_of(run: Run, workload: Workload) -> dict[str, Any]:
    """What the serial run is computed from: the study's words, and weights, samples and modules as they are."""
    dataset = Seeded(workload.dataset, run.seed)
    sampler, total = sampler_of(run, workload.dataset), num_samples_of(workload.dataset)
    ends = [] if isinstance(workload.dataset, Stream) or total is None else [0, total - 1]
    looked_at = [*sampler.samples(0)[:NUM_LOOKED_AT], *ends]
    return {
        "format": FORMAT,
        "torch": torch.__version__,
        "workload": run.workload.model_dump(mode="json", exclude={"optimizer", "name", "sources"}),
        "seed": run.seed,
        "steps": run.measure.parity_steps,
        "weights": digest_of_weights(workload),
        "samples": [digest_of_sample(dataset[Drawn(index, 0)]) for index in looked_at],
        "num_samples": total,
        "sources": sources(run.workload.entry, run.workload.args),
    }


def digest_of(run: Run, content: dict[str, Any], device_type: str, kind: Kind, whole: Reference | None = None) -> str:
    """The name of a reference; `whole` is that of which it is a variant."""
    extra: dict[str, Any] = {"kind": kind, "device": device_type}
    if whole is not None and whole.twin is not None:
        extra["twin"] = whole.twin.blocks
    if "grouped" in kind:
        layout = run.layout
        extra["groups"] = [layout.dp, layout.micro_batch_size, layout.accumulation_steps, layout.shares]
        extra["together"] = run.recipe.sync_batch_norm
    if "recipe" in kind:
        extra["recipe"] = [run.recipe.precision, run.recipe.compression, run.layout.shard == "full"]
    return hashlib.sha256(json.dumps(content | extra, sort_keys=True, default=str).encode()).hexdigest()[:16]


def kinds_of(run: Run, whole: Reference, *, halves: bool) -> list[Kind]:
    """The references that a run needs beside the whole one."""
    if whole.reason:
        return []
    changed = changed_by_cut(run, whole.dependence)
    # BatchNorm over all replicas with a loss over one micro-batch has no serial twin.
    cuts = changed.is_any and not (changed.loss and run.recipe.sync_batch_norm)
    kinds: list[Kind] = ["grouped"] if cuts else []
    if changes_numbers(run, halves=halves):
        kinds.append("grouped recipe" if cuts else "recipe")
    return kinds


def has_halves(workload: Workload) -> bool:
    """Whether any weight has 16 bits."""
    return any(each.dtype in HALVES for each in workload.model.parameters())


def changes_numbers(run: Run, *, halves: bool) -> bool:
    """Whether the run computes in another arithmetic than the one its layout is proven in; `halves`: 16-bit weights."""
    recipe = run.recipe
    is_rounded = recipe.precision == "tf32" or AUTOCAST[recipe.precision] is not None
    return halves or is_rounded or recipe.compression in ("bf16", "fp16")


def read(path: Path) -> Reference | None:
    """A kept reference; None where there is none that can be read."""
    try:
        return Reference.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def obtain(
    run: Run, path: Path, workload: Workload, device: torch.device, *, halves: bool
) -> tuple[References | None, str]:
    """The references of the run at `path`, or why there are none. `workload` is that of this rank, before
    any step, in fp32 where its own weights are `halves`."""
    directory, content = directory_of(path.parent), content_of(run, workload)
    found = _found(run, directory, content, device, halves=halves)
    if found is None:
        problem = _failed_before(run, directory) or _computed_elsewhere(run, path, device)
        if problem:
            return None, problem
        found = _found(run, directory, content, device, halves=halves)
    if found is None:
        return None, (
            "build() made other weights or other data in another process, from the same seed: draw from torch, NumPy "
            "or random, which are seeded, and sort what comes from sets or directories"
        )
    return found, ""


def _found(
    run: Run, directory: Path, content: dict[str, Any], device: torch.device, *, halves: bool
) -> References | None:
    whole = read(directory / f"{digest_of(run, content, device.type, 'whole')}.json")
    if whole is None:
        return None
    variants: dict[Kind, Reference] = {}
    for kind in kinds_of(run, whole, halves=halves):
        kept = read(directory / f"{digest_of(run, content, device.type, kind, whole)}.json")
        if kept is None:
            return None
        variants[kind] = kept
    return References(whole=whole, variants=variants)


def _failed_before(run: Run, directory: Path) -> str:
    """Why the reference job of this run failed; "" where it did not, or there was none."""
    problem = read_json(directory / reference_name(run) / RECORD).get("problem")
    return f"the serial run, which is a job of its own, {problem}" if problem else ""


def _computed_elsewhere(run: Run, path: Path, device: torch.device) -> str:
    """Compute what is missing in a process of its own; why that failed, or ""."""
    command = [sys.executable, "-c", _COMMAND, "reference", str(path), "--device", str(device)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHERS)}
    if not planted.is_on("out_of_memory"):
        environment.pop(planted.VARIABLE, None)  # a fault of the run is none of the reference
    limit_s = run.resources.time_limit_min * 60 / 2
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"the serial run took more than half of the time limit ({limit_s:.0f} s)"
    if done.returncode < 0:
        return f"the serial run was killed by signal {-done.returncode}, most likely for want of memory"
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return (
        f"the serial run failed: {lines[-1][:400] if lines else f'exit {done.returncode}'}" if done.returncode else ""
    )


def compute_missing(runs: Sequence[Run], directory: Path, device: torch.device) -> list[Kept]:
    """The references of `runs`, which are of one model, seed and batch, kept in `directory`; computed where missing.

    Raises ConfigError for what the user's module gets wrong.
    """
    _world_of_one(device)
    first = runs[0]
    workload, own = build_still(first, raised=True, filled=False), build_still(first, raised=False, filled=False)
    refuse_same_model(workload, own)
    content, halves = content_of(first, workload), has_halves(own)
    del workload, own  # the serial run needs their room
    kept: dict[str, Kept] = {}

    def keep(run: Run, kind: Kind, compute: Callable[[str], Reference], whole: Reference | None = None) -> Reference:
        digest = digest_of(run, content, device.type, kind, whole)
        if digest not in kept:
            path = directory / f"{digest}.json"
            if (reference := read(path)) is None:
                reference = _timed(compute, digest)
                write_atomically(path, reference.model_dump_json())
            kept[digest] = Kept(path=path, reference=reference)
        return kept[digest].reference

    whole = keep(first, "whole", lambda digest: compute_whole(first, device, digest))
    for run in runs:
        for kind in kinds_of(run, whole, halves=halves):
            keep(run, kind, partial(_variant, run, device, kind, whole), whole)
    return list(kept.values())


def _variant(run: Run, device: torch.device, kind: Kind, whole: Reference, digest: str) -> Reference:
    return compute_variant(run, device, digest, kind, whole)


def _timed(compute: Callable[[str], Reference], digest: str) -> Reference:
    began = time.perf_counter()
    return compute(digest).model_copy(update={"duration_s": time.perf_counter() - began})


def refuse_same_model(first: Workload, second: Workload) -> None:
    """Raise ConfigError where build() returns one model again: it would go on from weights that were trained."""
    if first.model is second.model:
        raise ConfigError(
            "build() returned the same model object twice",
            "each call builds a model with its first weights: one for the steps that are compared, one for the run",
            "construct the model inside build()",
        )


def _world_of_one(device: torch.device) -> None:
    import torch.distributed as dist

    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
