"""The wheel alone, in an empty directory: init writes a project in which the workflow that it brings starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mpirun import ENVIRONMENT
from tests.wheel import install

BIN = Path(sys.executable).parent
FILES = {
    ".gitignore",
    "Snakefile",
    "mine_model.py",
    "profiles/default/config.yaml",
    "slurm/config.yaml",
    "slurm/sites/generic-slurm.yaml",
    "studies/mine.yaml",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the installed wheel; what it needs comes from this environment."""
    return install(tmp_path_factory.mktemp("wheel"))


def call(installed: Path, directory: Path, *words: str, timeout_s: float = 60) -> str:
    environ = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(installed), "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        words, cwd=directory, env=environ, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout + done.stderr


def test_init_makes_a_project_that_snakemake_reads(installed: Path, tmp_path: Path) -> None:
    where = call(installed, tmp_path, sys.executable, "-c", "import hpc_accel; print(hpc_accel.__file__)")
    assert where.startswith(str(installed)), "the wheel is what runs, not this checkout"
    told = call(installed, tmp_path, "hpc-accel", "init", "--name", "mine")
    assert told.splitlines()[-1] == "next: hpc-accel run studies/mine.yaml"
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == FILES
    for more in (["--cores", "all"], ["--profile", "slurm"]):
        told = call(installed, tmp_path, "snakemake", "-n", *more, "--config", "study=studies/mine.yaml")
        assert "hpc-accel check" in told or "rule check" in told or "checkpoint check" in told
    again = call(installed, tmp_path, "hpc-accel", "init", "--name", "other")
    assert again.count("wrote") == 2, "what is there stays"


@pytest.mark.mpi
@pytest.mark.timeout(300)
def test_run_goes_from_the_project_to_the_answer_without_its_files(installed: Path, tmp_path: Path) -> None:
    """Also where only a study is: the package's own workflow, profile and site are used."""
    (tmp_path / "one.yaml").write_text(
        "workload: {name: mlp}\nlayouts: [{}, {dp: 2}]\nresources: {ranks_per_node: 2}\nmeasure: {steps: 20}\n"
    )
    told = call(installed, tmp_path, "hpc-accel", "run", "one.yaml", timeout_s=280)
    for words in ("probing the machine", "mlp: dp2 fp32 x1: done", "Best for time:", "script:  results/one/runs/mlp-"):
        assert words in told
    assert (tmp_path / "results/one/report.html").stat().st_size > 3e4
