"""The wheel alone on a real cluster: init, a site, and `hpc-accel run --profile slurm` from an empty directory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.wheel import install

from .conftest import BIN, ROOT, Cluster, read

STUDY = """\
site: throwaway
resources: {num_nodes: 2, ranks_per_node: 1, memory_mb: 2500, time_limit_min: 10}
workload: {name: mlp}
layouts: [{}, {dp: 2}]
measure: {steps: 20}
calibrate: false
"""


@pytest.mark.timeout(500)
def test_the_wheel_measures_a_study_through_slurm(_cluster_is_up: None, tmp_path: Path) -> None:
    installed = install(tmp_path)
    project = tmp_path / "project"
    project.mkdir()
    person = Cluster(project, package=installed)
    person.run(BIN / "hpc-accel", "init", "--name", "mine")
    shutil.copy(ROOT / "slurm/sites/throwaway.yaml", project / "slurm/sites")
    (project / "studies/mine.yaml").write_text(STUDY)
    told = person.run(BIN / "hpc-accel", "run", "studies/mine.yaml", "--profile", "slurm", timeout_s=420)
    assert "Best for time:" in told, told
    runs = {path.name.rsplit("-", 3)[0]: read(path) for path in (project / "results/mine/runs").iterdir()}
    assert {name: run["status"] for name, run in runs.items()} == {"mlp-serial": "completed", "mlp-dp2": "completed"}
    assert len(set(runs["mlp-dp2"]["hosts"])) == 2 and runs["mlp-dp2"]["job_id"]
    assert (project / "results/mine/report.html").stat().st_size > 3e4
