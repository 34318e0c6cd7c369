"""Whole scripts against files read by people. `HPC_ACCEL_WRITE_GOLDEN=1 pytest tests/jobs` writes them anew."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hpc_accel.jobs.script import render, render_pack, render_probe, render_reference
from hpc_accel.jobs.site import load_site
from hpc_accel.study.study_file import Study

from .conftest import ROOT, make_mixed_run, make_run

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "local": ("local", {"num_nodes": 1, "ranks_per_node": 2}),
    "generic-slurm": ("generic-slurm", {"num_nodes": 1, "ranks_per_node": 1}),
    "throwaway": ("throwaway", {"num_nodes": 2, "ranks_per_node": 2, "gpus_per_node": 2, "partition": "main"}),
    "example-nvidia": ("example-nvidia", {"num_nodes": 2, "ranks_per_node": 4, "gpus_per_node": 4, "cpus_per_rank": 8}),
    "example-cray-amd": ("example-cray-amd", {"num_nodes": 8, "ranks_per_node": 8, "gpus_per_node": 8}),
    "example-cpu": ("example-cpu", {"num_nodes": 4, "ranks_per_node": 96, "partition": "fat"}),
}
MIXED = {
    "mixed": (
        "throwaway",
        [
            {"num_nodes": 2, "ranks_per_node": 1, "gpus_per_node": 1, "cpus_per_rank": 4},
            {"ranks_per_node": 2, "partition": "small", "memory_mb": 2000},
        ],
    ),
    "mixed-srun": (
        "example-nvidia",
        [
            {"num_nodes": 8, "ranks_per_node": 4, "gpus_per_node": 4, "cpus_per_rank": 16},
            {"num_nodes": 2, "ranks_per_node": 4, "gpus_per_node": 4, "gpu_type": "h100", "constraint": "new"},
        ],
    ),
}
"""Nodes that differ: site, node kinds."""
PATHS = {"root": Path("/home/me/my checkout"), "environment": Path("/home/me/my checkout/.venv")}


def text_of(case: str) -> str:
    if case == "probe":
        study = Study(name="mine", workload={"name": "digits"}, resources={"num_nodes": 2, "ranks_per_node": 2})
        paths = {"study_path": Path("/home/me/my checkout/studies/mine.yaml"), "out_dir": Path("/home/me/results/mine")}
        return render_probe(study, load_site(ROOT / "slurm/sites/throwaway.yaml"), **paths, **PATHS)
    if case == "pack":
        runs = [make_run(1, 1), make_run(2, 2)]
        site = load_site(ROOT / "slurm/sites/throwaway.yaml")
        return render_pack(runs, site, name="pack-0", study_dir=Path("/home/me/results/mine"), **PATHS)
    if case == "reference":
        runs = [make_run(1, 1), make_run(2, 2, gpus_per_node=2)]
        site = load_site(ROOT / "slurm/sites/throwaway.yaml")
        directory = Path("/home/me/results/mine/references/digits-0")
        return render_reference(runs, site, name="digits-0", directory=directory, **PATHS)
    site_name, geometry = CASES.get(case) or MIXED[case]
    site = load_site(ROOT / f"slurm/sites/{site_name}.yaml")
    run = make_run(**geometry) if case in CASES else make_mixed_run(*geometry)
    if case == "mixed-srun":
        site = site.model_copy(update={"launcher": "srun --mpi=pmix"})
    run_dir = Path("/home/me/results/study/runs") / run.run_id
    return render(run, site, run_dir=run_dir, **PATHS)


@pytest.mark.parametrize("case", [*CASES, *MIXED, "probe", "pack", "reference"])
def test_script_is_the_golden_file(case: str):
    text, golden = text_of(case), GOLDEN / f"{case}.sbatch"
    if os.environ.get("HPC_ACCEL_WRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("case", [*CASES, *MIXED, "probe", "pack", "reference"])
def test_script_is_clean_shell(case: str, tmp_path: Path):
    path = tmp_path / "job.sbatch"
    path.write_text(text_of(case))
    subprocess.run(["bash", "-n", path], check=True, timeout=20)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    command = ["shellcheck", "--exclude=SC1091", path]  # /etc/profile is the site's
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_every_site_file_has_a_golden_script():
    assert {path.stem for path in (ROOT / "slurm/sites").glob("*.yaml")} <= set(CASES)
