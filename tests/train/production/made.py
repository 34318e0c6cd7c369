"""Trainings to their end, small and quick, and what plain torch makes of the weights they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hpc_accel.record.production import FORECAST
from hpc_accel.study.production import Production
from hpc_accel.study.run import Run
from hpc_accel.study.run_file import read_run, write_run_file
from hpc_accel.workloads import entry
from tests.train.test_layouts import write_runs

SHORT = {"warmup_steps": 0, "steps": 8, "parity_steps": 1, "metric_samples": 32, "idle_s": 0}


def made(directory: Path, workload: dict[str, Any], layouts: list[Any], every: int = 4, **study: Any) -> list[Path]:
    """run.json files that train to their end, beside each other."""
    ending = {key: study.pop(key) for key in ("target_metric", "patience") if key in study}
    measure = SHORT | study.pop("measure", {})
    found = []
    for path in write_runs(directory / "measured", workload, layouts, measure=measure, **study):
        run = read_run(path)
        to_its_end = Production(name="here", evaluate_every_steps=every, **ending)
        content = run.model_dump(exclude={"run_id"}) | {"production": to_its_end}
        run = Run.model_validate(content)
        write_run_file(run, directory / run.run_id)
        assert not (directory / run.run_id / FORECAST).exists()
        found.append(directory / run.run_id / "run.json")
    return found


def file_of(directory: Path, name: str) -> Path:
    return directory / "weights" / name / "model.safetensors"


def loaded(path: Path, name: str = "last") -> tuple[Any, torch.nn.Module]:
    """The workload of a run.json, and its model with the weights that the training left, by plain torch."""
    run = read_run(path)
    built = entry.build(run.workload, run.seed)
    built.model.load_state_dict(load_file(file_of(path.parent, name)))
    return built, built.model.eval()


def metric_of(built: Any, most: int) -> float:
    """The workload's metric on its held-out samples, computed serially."""
    batch = built.batch_of(built.metric.chosen(most), built.metric.dataset)
    with torch.no_grad():
        outputs = batch.call(built.model)
    return float(built.metric.compute(outputs.float(), batch.targets))
