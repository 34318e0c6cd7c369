"""The Snakefile's promises: nothing twice, only what changed, failures kept apart, and cheap planning."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT, STUDY, Workflow

ALL = ["check", "probe", "plan", "reference digits", "train serial", "train dp2", "train tp2", "report"]


def test_from_study_to_report_and_then_nothing(workflow: Workflow):
    workflow.snakemake("--cores", "2")
    calls = workflow.calls()
    assert sorted(calls) == sorted(ALL)
    assert calls.index("reference digits") < min(calls.index(call) for call in ALL if call.startswith("train"))
    assert workflow.answer() == {"serial": "completed", "dp2": "completed", "tp2": "completed"}
    assert "Nothing to be done" in workflow.snakemake("--cores", "2")
    assert workflow.calls() == []


def test_changed_study_runs_only_what_changed(workflow: Workflow):
    workflow.snakemake("--cores", "2")
    workflow.calls()
    workflow.write_study(STUDY + "  - {dp: 2, accumulation_steps: 4}\n")
    workflow.snakemake("--cores", "2")
    assert workflow.calls() == ["check", "plan", "reference digits", "train dp2", "report"], "other groups of samples"
    workflow.write_study(STUDY.replace("2}\nworkload", "2, time_limit_min: 7}\nworkload") + "  # another comment\n")
    workflow.snakemake("--cores", "2")
    assert workflow.calls() == ["check", "plan", "reference digits", "report"], (
        "a queueing option measures nothing again"
    )
    scripts = list((workflow.directory / "results/s/runs").glob("*-a1-*/job.sbatch"))
    assert all("--time=7\n" in path.read_text() for path in scripts)
    assert "Nothing to be done" in workflow.snakemake("--cores", "2")


def test_a_failed_check_is_told_and_costs_no_measurement(workflow: Workflow):
    workflow.snakemake("--cores", "2")
    workflow.calls()
    broken = workflow.directory / "broken"
    broken.write_text("error: that is wrong\n  where:  mine.py:3 in build\n  rule:   it is right\n  remedy: right it")
    workflow.write_study(STUDY + "# an edit\n")
    output = workflow.snakemake("--cores", "2", check=False)
    _, _, below = output.partition("Exiting because a job execution failed")
    assert (
        "s/check.log:\nerror: that is wrong\n  where:  mine.py:3 in build\n  rule:   it is right\n  remedy: " in below
    )
    assert set(workflow.calls()) == {"check", "report"}
    broken.unlink()
    workflow.snakemake("--cores", "2")
    # A failed check leaves no file, from which Snakemake concludes that the machine is to be probed again.
    assert workflow.calls() == ["check", "probe", "plan"], "what was measured before the edit is measured still"
    assert "Nothing to be done" in workflow.snakemake("--cores", "2")


def test_an_edit_of_the_site_or_the_users_files_is_checked(workflow: Workflow):
    study = STUDY.replace("name: digits", 'name: digits, entry: "mine:build", global_batch_size: 16')
    (workflow.directory / "mine.py").write_text("")
    site = workflow.directory / "here.yaml"
    site.write_text("scheduler: none\n")
    workflow.write_study(f"site: here.yaml\n{study}")
    workflow.snakemake("--cores", "2")
    workflow.calls()
    (workflow.directory / "mine.py").write_text("# another\n")
    workflow.snakemake("--cores", "2", "--until", "check")
    assert workflow.calls() == ["check"]
    workflow.snakemake("--cores", "2")
    workflow.calls()
    assert "Nothing to be done" in workflow.snakemake("--cores", "2")
    site.write_text("scheduler: none\nabout: another\n")
    workflow.snakemake("--cores", "2")
    assert workflow.calls()[:3] == ["check", "probe", "plan"]
    assert "Nothing to be done" in workflow.snakemake("--cores", "2")


def test_deleted_measurement_is_measured_again(workflow: Workflow):
    workflow.snakemake("--cores", "2")
    workflow.calls()
    (gone,) = (workflow.directory / "results/s/runs").glob("digits-dp2-*")
    (gone / "summary.json").unlink()
    workflow.snakemake("--cores", "2")
    assert workflow.calls() == ["train dp2", "report"]
    for file in gone.iterdir():
        file.unlink()
    workflow.snakemake("--cores", "2")
    assert workflow.calls() == ["train dp2", "report"], "the plan has the run: it is not made again"
    assert (gone / "run.json").exists() and (gone / "request.json").exists()
    assert "Nothing to be done" in workflow.snakemake("--cores", "2")


@pytest.mark.parametrize(
    ("times", "code", "status", "num_tries"),
    [(1, 1, "completed", 2), (9, 1, "failed", 2), (9, 137, "failed", 2), (9, 78, "failed", 1)],
)
def test_failing_run_stops_neither_others_nor_report(workflow: Workflow, times, code, status, num_tries):
    workflow.fail("dp2", times, code)
    output = workflow.snakemake("--cores", "2")
    assert workflow.calls().count("train dp2") == num_tries
    assert workflow.answer() == {"serial": "completed", "dp2": status, "tp2": "completed"}
    (run_dir,) = (workflow.directory / "results/s/runs").glob("digits-dp2-*")
    if status == "failed":
        error = json.loads((run_dir / "summary.json").read_text())["error"]
        assert str(code) in error["message"] or "SIGKILL" in error["message"]
        assert error["remedy"]
        assert f"error: {error['message']}\n  remedy: {error['remedy']}" in output.partition("Select jobs")[2]
    assert "Nothing to be done" in workflow.snakemake("--cores", "2")


def test_run_killed_without_a_record_does_not_cost_the_report(workflow: Workflow):
    mpirun = workflow.directory / "env/bin/mpirun"
    text = mpirun.read_text()
    mpirun.write_text(text.replace("#!/bin/bash\n", "#!/bin/bash\n[[ $* != *-dp2-* ]] || { kill -9 $PPID; exit; }\n"))
    output = workflow.snakemake("--cores", "2", "--keep-going", check=False)
    assert "Error in rule run" in output
    assert workflow.answer() == {"serial": "completed", "tp2": "completed"}
    mpirun.write_text(text)
    workflow.snakemake("--cores", "2")
    assert workflow.answer() == {"serial": "completed", "dp2": "completed", "tp2": "completed"}


def test_runs_take_turns_in_one_allocation(workflow: Workflow):
    workflow.write_study("same_allocation: true\n" + STUDY)
    workflow.fail("dp2", 9, 1)
    output = workflow.snakemake("--cores", "2")
    assert "rule run:" not in output and output.count("rule pack:") == 1
    dp2 = ["train dp2", "train dp2"]
    assert workflow.calls() == [
        "check",
        "probe",
        "plan",
        "reference digits",
        "train serial",
        *dp2,
        "train tp2",
        "report",
    ]
    assert workflow.answer() == {"serial": "completed", "dp2": "failed", "tp2": "completed"}
    assert "Nothing to be done" in workflow.snakemake("--cores", "2")
    workflow.fail("dp2", 0, 1)
    workflow.write_study("same_allocation: true\n" + STUDY + "  - {dp: 2, accumulation_steps: 4}\n")
    workflow.snakemake("--cores", "2")
    calls = ["check", "plan", "reference digits", "train dp2", "report"]
    assert workflow.calls() == calls, "what is measured stays measured"
    next(workflow.directory.glob("results/s/runs/*-tp2-*/summary.json")).unlink()
    workflow.snakemake("--cores", "2")
    assert workflow.calls() == ["train tp2", "report"], "a deleted summary is measured again, and no other"
    assert "Nothing to be done" in workflow.snakemake("--cores", "2")


def test_interrupted_workflow_continues(workflow: Workflow):
    slow = workflow.directory / "slow"
    slow.touch()
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--config", "study=s.yaml"]
    process = subprocess.Popen(
        [*command, "--cores", "2"], cwd=workflow.directory, env=workflow.environment(), start_new_session=True
    )
    try:
        wait_for(lambda: "train" in Path(workflow.directory / "calls.txt").read_text())
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
        assert process.wait(30) != 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    slow.unlink()
    workflow.calls()
    workflow.snakemake("--cores", "2", "--rerun-incomplete")
    assert sorted(workflow.calls()) == ["report", "train dp2", "train serial", "train tp2"]


def wait_for(condition, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            if condition():
                return
        except FileNotFoundError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"not within {timeout_s} s")


def test_a_thousand_runs_are_planned_in_20_s_of_one_core(workflow: Workflow):
    """Of processor time, which other work on the machine does not change."""
    layouts = "".join(f"  - {{micro_batch_size: {2**n}}}\n" for n in range(7))
    recipes = "[{precision: [fp32, bf16]}]"
    workloads = "".join(
        f"  - {{name: w{n}, entry: fake_model:build, global_batch_size: 64, recipes: {recipes}}}\n" for n in range(72)
    )
    (workflow.directory / "fake_model.py").write_text("")
    workflow.write_study(f"workload:\n{workloads}layouts:\n{layouts}")
    workflow.snakemake("--cores", "2", "--until", "plan")
    num_runs = len(json.loads((workflow.directory / "results/s/plan.json").read_text())["candidates"])
    assert num_runs >= 1000
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = workflow.snakemake("--cores", "2", "--dry-run", "--quiet", "rules")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20
    assert "run " in output and str(num_runs) in output


def test_snakemakes_own_report_has_each_result_with_its_caption(workflow: Workflow):
    workflow.snakemake("--cores", "2")
    workflow.snakemake("--report", "snakemake.zip")
    with zipfile.ZipFile(workflow.directory / "snakemake.zip") as archive:
        text = "".join(archive.read(name).decode("utf-8", "replace") for name in archive.namelist())
    for name in ("report.html", "summary.csv", "methods.md", "answer.txt", "plan.json", "hardware.json"):
        assert f"results/s/{name}" in text
    captions = (ROOT / "workflow/report").glob("*.rst")
    for path in captions:
        first = path.read_text().split(":")[0].split("``")[0].strip()
        assert first in text, path.name


@pytest.mark.parametrize("mistake", ["study=", "studdy=s.yaml", "study=t.yaml"])
def test_mistakes_on_the_command_line(workflow: Workflow, mistake: str):
    command = [sys.executable, "-m", "snakemake", "-n", "-s", str(ROOT / "Snakefile"), "--config", "study=s.yaml"]
    done = subprocess.run(
        [*command, mistake],
        cwd=workflow.directory,
        env=workflow.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"{mistake.partition('=')[0]}" in done.stdout
    assert "  rule:   " in done.stdout and "  remedy: " in done.stdout
    assert "Traceback" not in done.stdout


def test_lint_and_format():
    lint = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--lint"]
    done = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
