"""Which serial run each run is compared with: runs of one model, seed and batch share one reference job.

The job computes every variant that its runs need: what each is lies in a run's arithmetic and in how it groups samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpc_accel.errors import ConfigError
from hpc_accel.files import read_json
from hpc_accel.study.devices import on_gpus
from hpc_accel.study.run import Run

RUNS = "runs.json"
"""The runs that a reference job computes for, in its directory."""
RECORD = "reference.json"
"""What it computed and how long that took, or why it failed."""


def reference_name(run: Run) -> str:
    """The name of the reference job of `run`: the workload's, and a digest of model, data, seed, batch and steps."""
    content = {
        "workload": run.workload.model_dump(mode="json", exclude={"optimizer"}),
        "seed": run.seed,
        "steps": run.measure.parity_steps,
        "on_gpu": on_gpus(run.device, run.resources.node_kind_of(0).gpus_per_node),
    }
    return f"{run.workload.name}-{_digest(content)[:8]}"


def variant_of(run: Run) -> list[Any]:
    """What a run's variants depend on beside the model: runs that agree in it need the same."""
    layout, recipe = run.layout, run.recipe
    groups = [layout.dp, layout.micro_batch_size, layout.accumulation_steps, layout.shares]
    return [*groups, recipe.sync_batch_norm, layout.shard == "full", recipe.precision, recipe.compression]


def runs_by_reference(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Training runs by the name of their reference job."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.infer is None:
            found.setdefault(reference_name(run), []).append(run)
    return found


def one_of_each(runs: Iterable[Run]) -> list[Run]:
    """One run for each set of variants, in a fixed order."""
    found: dict[str, Run] = {}
    for run in sorted(runs, key=lambda each: each.run_id):
        found.setdefault(json.dumps(variant_of(run)), run)
    return list(found.values())


def planned_references(runs: Iterable[Run]) -> dict[str, dict[str, Any]]:
    """What a plan says of each reference job: its runs, and a digest that changes when other variants are needed."""
    return {
        name: {
            "runs": [run.run_id for run in each],
            "variants": _digest(sorted({json.dumps(variant_of(run)) for run in each}))[:16],
        }
        for name, each in runs_by_reference(runs).items()
    }


def directory_of(run_directory: Path) -> Path:
    """Where the references of a run's study lie."""
    parent = run_directory.resolve().parent
    return (parent.parent if parent.name in ("runs", "production") else parent) / "references"


def read_reference_runs(path: Path) -> list[Run]:
    """The runs in a reference job's runs.json. Raises ConfigError where there are none."""
    listed = read_json(path).get("runs")
    try:
        runs = [Run.model_validate(each) for each in listed] if isinstance(listed, list) else []
    except ValidationError:
        runs = []
    if not runs:
        raise ConfigError(
            f"{path}", "a reference is computed for the runs in this file", "write it: hpc-accel script on a plan.json"
        )
    return runs


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
