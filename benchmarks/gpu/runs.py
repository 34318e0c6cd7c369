"""Runs of the product for the steps: a study's content into runs, and one run's stepper on this process's device."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.say import PRETENDED

OUT = Path(os.environ.get("HPC_ACCEL_GPU_OUT", tempfile.gettempdir()))
"""Where results come back from."""
MEASURE = {"warmup_steps": 5, "steps": 20, "parity_steps": 0, "metric_samples": 0, "idle_s": 0}


def study_of(workload: dict[str, Any], **content: Any) -> Any:
    """A study on one GPU, one rank."""
    from hpc_accel.study.study_file import Study

    return Study.model_validate(
        {
            "name": "gpu",
            "device": "cpu" if PRETENDED else "cuda",
            "resources": {"ranks_per_node": 1, "gpus_per_node": 0 if PRETENDED else 1, "memory_mb": 100_000},
            "measure": MEASURE,
            "layouts": [{}],
            "workload": workload,
            **content,
        }
    )


def runs_of(study: Any, *, planned: bool = True) -> list[Any]:
    """The study's runs. `planned` takes the model's facts without its weights."""
    from hpc_accel.study.expand import listed_runs, resolve_workload
    from hpc_accel.workloads.facts_without_weights import facts_of

    (choice,) = study.workloads
    return list(listed_runs(study, choice, facts_of(resolve_workload(choice), study.seed)))


def stepper_of(
    name: str, args: dict[str, Any], batch: int, *, recipe: dict[str, Any], layout: dict[str, Any] | None = None
) -> Any:
    """The product's stepper of one run on this process's device, as a session would build it."""
    workload = {"name": name, "args": args, "global_batch_size": batch, "optimizer": {"name": "adamw"}}
    listed = {key: [value] if key == "precision" else value for key, value in recipe.items()}
    (run,) = runs_of(study_of(workload, recipes=[listed], layouts=[layout or {}]))
    return stepper_of_run(run)


def stepper_of_run(run: Any) -> Any:
    """The same of a run that there is."""
    from benchmarks.gpu.say import DEVICE
    from hpc_accel.parallel.mesh import rank_coordinates
    from hpc_accel.runtime.make_stepper import make_stepper
    from hpc_accel.workloads import entry

    place = rank_coordinates(run.layout, 0, DEVICE.type)
    return make_stepper(run, entry.build(run.workload, run.seed), place, DEVICE, recipe=run.recipe, split=None)


def write_runs(runs: Sequence[Any], directory: Path) -> list[Path]:
    """run.json of each below `directory`."""
    paths = []
    for run in runs:
        path = directory / "runs" / run.run_id / "run.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(run.model_dump_json())
        paths.append(path)
    return paths
