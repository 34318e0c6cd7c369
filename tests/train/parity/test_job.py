"""The reference as a job of its own: it computes all that its runs need, they compute nothing, its failure is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_accel.jobs.write import Places, write_planned
from hpc_accel.report.load.run_status import compared
from hpc_accel.study.references import planned_references
from hpc_accel.study.run_file import read_run
from tests.mpirun import ENVIRONMENT, ROOT, check, mpirun
from tests.records import summary_in
from tests.train.parity.test_planted import MEASURE
from tests.train.test_layouts import SCRIPT, write_runs

BATCH_NORM = {"entry": "tests.train.parity.models:build", "args": {"kind": "batch norm"}, "global_batch_size": 16}
FAILS = {"entry": "tests.train.parity.models:fails_alone", "global_batch_size": 16, "name": "failing"}


def planned(directory, runs):
    """The files that the workflow has, of `runs`; and the references of the plan."""
    references = planned_references(runs)
    candidates = [{"run_id": run.run_id, "chosen": True, "run": run.model_dump(mode="json")} for run in runs]
    (directory / "plan.json").write_text(json.dumps({"candidates": candidates, "references": references, "pack": None}))
    write_planned(directory / "plan.json", places=Places(root=ROOT, environment=Path(sys.prefix)))
    return references


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Directory, references of the plan with their records, and the times of all reference files before the runs."""
    directory, written = tmp_path_factory.mktemp("jobs"), tmp_path_factory.mktemp("written")
    layouts = [{"dp": 2}, {"dp": 2, "accumulation_steps": 2}]
    kinds = [({**BATCH_NORM, "name": "norm"}, layouts, ("fp32", "bf16")), (FAILS, [{"dp": 2}], ("fp32",))]
    paths = [path for kind in kinds for path in write_runs(written, *kind, site="local", measure=MEASURE)]
    references = planned(directory, [read_run(path) for path in paths])
    codes = {}
    for name in references:
        script = ["bash", str(directory / "references" / name / "job.sbatch")]
        done = subprocess.run(
            script, env={**ENVIRONMENT, **outside()}, capture_output=True, text=True, timeout=200, check=False
        )
        codes[name] = done.returncode, done.stderr
    before = {path: path.stat().st_mtime_ns for path in directory.glob("references/*.json")}
    runs = sorted(directory.glob("runs/*/run.json"))
    check(mpirun(2, [SCRIPT, *runs], 200))
    return directory, references, codes, before


def outside():
    return {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}


@pytest.mark.mpi
def test_every_variant_comes_from_one_job_and_no_run_computes_any(jobs):
    directory, references, codes, before = jobs
    [name] = [name for name in references if name.startswith("norm-")]
    assert codes[name][0] == 0, codes[name][1]
    record = json.loads((directory / "references" / name / "reference.json").read_text())
    kinds = sorted(each["kind"] for each in record["references"].values())
    assert kinds == ["grouped", "grouped", "grouped recipe", "grouped recipe", "whole"]
    assert before == {path: path.stat().st_mtime_ns for path in directory.glob("references/*.json")}
    for run_id in references[name]["runs"]:
        summary = summary_in(directory / "runs" / run_id)
        assert summary.status == "completed", summary.parity
        used = summary.parity.found.reference_s
        assert 0 < used <= sum(each["duration_s"] for each in record["references"].values())
        assert record["duration_s"] >= used


@pytest.mark.mpi
def test_a_job_that_failed_leaves_its_runs_unchecked_and_none_tries_again(jobs):
    directory, references, codes, _ = jobs
    [name] = [name for name in references if name.startswith("failing-")]
    assert codes[name][0] != 0
    [run_id] = references[name]["runs"]
    summary = summary_in(directory / "runs" / run_id)
    assert summary.parity.reason == (
        "the serial run, which is a job of its own, failed: RuntimeError: this loss wants more than 12 samples away"
    )
    assert compared(summary.parity)[0] == "unchecked"
