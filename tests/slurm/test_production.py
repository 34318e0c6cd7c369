"""A training that takes two jobs: the time limit cuts the first, the second waits for it and ends the training."""

from __future__ import annotations

import re

import pytest
from safetensors.torch import load_file

from hpc_accel.study.production import Production
from hpc_accel.study.run import Run, WorkloadSpec

from .conftest import ROOT, Cluster, make_run, read

SLOW = """

def slow():
    import time
    from dataclasses import replace
    from pathlib import Path

    def loss(outputs, targets):
        if Path(__file__).with_name("slow").exists():
            time.sleep(0.5)
        return nn.functional.cross_entropy(outputs, targets)

    return replace(build(), loss=loss)
"""
"""Slow as long as the file `slow` is there, so that the warning finds the training under way."""


def digits_model() -> str:
    """The module of docs/production.md."""
    page = (ROOT / "docs/production.md").read_text()
    return next(text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "digits_model.py" in text[:20])


@pytest.mark.timeout(500)
def test_a_chain_of_two_jobs(cluster: Cluster):
    (cluster.directory / "digits_model.py").write_text(digits_model() + SLOW)
    (cluster.directory / "slow").touch()
    optimizer = {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.05}
    optimizer["schedule"] = {"name": "cosine", "total_steps": 264}
    workload = WorkloadSpec(name="digits_model", entry="digits_model:slow", global_batch_size=64, optimizer=optimizer)
    measured = make_run(2, 1, time_limit_min=2)
    measure = measured.measure.model_copy(update={"warmup_steps": 0, "steps": 264, "parity_steps": 0})
    run = Run.model_validate(
        measured.model_dump(exclude={"run_id"})
        | {"workload": workload, "measure": measure, "production": Production(name="here", evaluate_every_steps=44)}
    )
    run_dir = cluster.prepare(run, max_restarts=0)
    first, second, third = (cluster.submit(run_dir / "job.sbatch") for _ in range(3))
    assert cluster.wait(first, 200)["JobState"] == "FAILED", "warned before its time was up, and saved"
    (cluster.directory / "slow").unlink()
    assert cluster.state(second) in {"PENDING", "RUNNING"}, "it waited for the first"
    assert cluster.wait(second, 200)["JobState"] == "COMPLETED", (run_dir / "log.txt").read_text()[-3000:]
    summary = read(run_dir)
    assert summary["attempt"] == 2
    assert summary["job_id"] == second
    assert cluster.wait(third, 60)["JobState"] == "COMPLETED"
    assert read(run_dir) == summary, "nothing was left to do"
    assert "come to its end already" in (run_dir / "log.txt").read_text()
    production = summary["production"]
    assert production["num_attempts"] == 2
    assert production["losses"]["restarts_s"] > 0
    assert production["queue_s"]["value"] > 0
    assert production["best_value"]["value"] >= 0.97
    assert load_file(run_dir / "weights/best/model.safetensors")
