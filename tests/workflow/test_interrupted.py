"""A workflow that is hung up, killed, or interrupted while Slurm is silent leaves no lock and no orphan untold."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import stub_slurm
from .conftest import SNAKEMAKE, STUDY, Workflow
from .test_workflow import wait_for

SITE = "scheduler: slurm\npartitions: {part: {}}\n"


class Started:
    """A workflow under way in a session of its own; all that it says is in `told`."""

    def __init__(self, workflow: Workflow, *arguments: str) -> None:
        self.workflow, self.log = workflow, workflow.directory / "told.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*SNAKEMAKE, *arguments],
                cwd=workflow.directory,
                env=workflow.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def told(self) -> str:
        return self.log.read_text()

    def until(self, words: str, timeout_s: float = 60) -> None:
        try:
            wait_for(lambda: words in self.told(), timeout_s)
        except AssertionError:
            raise AssertionError(self.told()[-3000:]) from None

    def scripts(self) -> list[int]:
        """Processes of the workflow's job scripts."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{self.workflow.directory}".encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
        return [pid for pid in found if pid not in (os.getpid(), self.process.pid)]


@pytest.fixture
def started(workflow: Workflow) -> Iterator[list[Started]]:
    running: list[Started] = []
    yield running
    for each in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.wait(10)


@pytest.mark.parametrize("how", ["SIGHUP", "SIGKILL"])
def test_a_workflow_that_is_hung_up_or_killed_leaves_no_script(workflow: Workflow, started: list[Started], how: str):
    slow = workflow.directory / "slow"
    slow.touch()
    first = Started(workflow, "--cores", "2")
    started.append(first)
    wait_for(lambda: "train" in (workflow.directory / "calls.txt").read_text())
    assert first.scripts()
    os.kill(first.process.pid, signal.Signals[how])
    assert first.process.wait(20) != 0
    wait_for(lambda: not first.scripts(), 15)
    slow.unlink()
    workflow.calls()
    if how == "SIGKILL":
        assert "unlock" in workflow.snakemake("--cores", "2", check=False)
        workflow.snakemake("--unlock")
    workflow.snakemake("--cores", "2", "--rerun-incomplete")
    assert sorted(workflow.calls()) == ["report", "train dp2", "train serial", "train tp2"]


@pytest.fixture
def slurm(workflow: Workflow) -> Path:
    directory = workflow.directory / "slurm-stub"
    stub_slurm.make(directory, workflow.directory / "env" / "bin")
    (workflow.directory / "here.yaml").write_text(SITE)
    workflow.write_study(f"site: here.yaml\n{STUDY}")
    return directory


def sent(workflow: Workflow) -> Started:
    options = ["--executor", "slurm", "--jobs", "5", "--slurm-status-command", "squeue", "--retries", "0"]
    more = ["--slurm-status-attempts", "200", "--slurm-init-seconds-before-status-checks", "20"]
    return Started(workflow, *options, *more, "--default-resources", "runtime=5", "mem_mb=100")


def test_why_a_job_waits_is_told_once_and_when_it_changes(workflow: Workflow, started: list[Started], slurm: Path):
    running = sent(workflow)
    started.append(running)
    running.until("job 101 waits: Resources (the nodes that it needs are busy)")
    (slurm / "reason").write_text("PartitionNodeLimit\n")
    running.until("job 101 waits: PartitionNodeLimit (it asks for more nodes")
    assert running.told().count("waits: Resources") == 1
    os.killpg(running.process.pid, signal.SIGINT)
    running.process.wait(25)
    wait_for(lambda: "1 job(s) are cancelled" in running.told(), 15)
    assert (slurm / "jobs").read_text() == ""


@pytest.mark.parametrize("how", ["silent", "failing"])
def test_ctrl_c_ends_where_slurm_does_not_answer(workflow: Workflow, started: list[Started], slurm: Path, how: str):
    running = sent(workflow)
    started.append(running)
    running.until("job 101 waits: Resources")
    for name in ("squeue", "scancel", "sacct"):
        (slurm / how / name).touch()
    began = time.monotonic()
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.process.wait(40) != 0
    assert time.monotonic() - began < 30
    running.until("remedy: when Slurm answers, scancel 101", 20)
    assert "1 job(s) may still run: 101: s" in running.told()
    for name in ("squeue", "scancel", "sacct"):
        (slurm / how / name).unlink()
    again = sent(workflow)  # no lock is left
    started.append(again)
    again.until("submitted with SLURM jobid 102")
    os.killpg(again.process.pid, signal.SIGINT)
    again.process.wait(25)
