"""`hpc-accel reference`: the serial runs that runs are compared with, and what a reference job notes of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from hpc_accel.errors import HpcAccelError
from hpc_accel.files import write_json
from hpc_accel.runtime.device import take_device
from hpc_accel.study.references import RUNS, directory_of, read_reference_runs, runs_by_reference
from hpc_accel.study.run import Run
from hpc_accel.study.run_file import read_run
from hpc_accel.train.parity.store import Kept, compute_missing


def compute_all(paths: list[Path], device: str, out: Path | None) -> list[Path]:
    """Compute and keep what is missing for the runs at `paths`: each a run.json, or a reference job's runs.json.

    `out` gets the record of the job, also when it fails. Runs of one model are taken together, so that it is built
    once. Raises ConfigError for what the user's module gets wrong.
    """
    began, kept = time.perf_counter(), list[Kept]()
    by_directory: dict[Path, list[Run]] = {}
    for path in paths:
        is_job = path.name == RUNS
        directory = path.parent.parent if is_job else directory_of(path.parent)
        by_directory.setdefault(directory, []).extend(read_reference_runs(path) if is_job else [read_run(path)])
    try:
        for directory, runs in by_directory.items():
            for alike in runs_by_reference(runs).values():
                kept += compute_missing(alike, directory, _device(alike[0], device))
    except Exception as error:
        if out is not None:
            told = str(error) if isinstance(error, HpcAccelError) else f"{type(error).__name__}: {error}"
            write_json(out, {"format": 1, "problem": f"failed: {' '.join(told.split())[:400]}"})
        raise
    if out is not None:
        write_json(out, _record(kept, time.perf_counter() - began))
    return list(dict.fromkeys(each.path for each in kept))


def _device(run: Run, asked: str) -> torch.device:
    return torch.device(asked) if asked else take_device(run.device, run.resources.node_kind_of(0).gpus_per_node, 0)


def _record(kept: list[Kept], duration_s: float) -> dict[str, Any]:
    references = {
        each.path.stem: {"kind": each.reference.kind, "duration_s": each.reference.duration_s} for each in kept
    }
    return {"format": 1, "problem": "", "duration_s": duration_s, "references": references}
