"""`hpc-accel run` and `watch`, with the real Snakefile on a stand-in for what rules call."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.started import gone
from tests.workflow.conftest import Workflow, workflow
from tests.workflow.test_workflow import wait_for

__all__ = ["workflow"]


class Door:
    """`hpc-accel ...` in the directory of a workflow."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["hpc-accel", *words],
            cwd=self.workflow.directory,
            env=self.workflow.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *words: str, timeout_s: float = 120) -> tuple[int, str, str]:
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, out, err

    def processes(self) -> list[int]:
        """All that still runs for this workflow."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(path / "cwd") == str(self.workflow.directory):
                    found.append(int(path.name))
            except OSError:
                continue
        return found


@pytest.fixture
def door(workflow: Workflow) -> Iterator[Door]:
    found = Door(workflow)
    yield found
    for pid in found.processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_from_the_check_to_the_answer_and_again(door: Door) -> None:
    code, out, err = door("run", "s.yaml")
    assert code == 0, out + err
    for words in ("probing the machine", "dp2 fp32 x1: done", "Best for time:", "report:  results/s/report.html"):
        assert words in out
    assert len(door.workflow.calls()) == 8
    code, out, _ = door("run", "s.yaml", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {event["run_id"] for event in events if event["event"] == "run"} == {
        path.name for path in (door.workflow.directory / "results/s/runs").iterdir()
    }
    assert events[-1]["event"] == "answer"
    assert not [call for call in door.workflow.calls() if call.startswith("train")], "nothing is measured twice"
    code, out, _ = door("run", "s.yaml", "--dry-run")
    assert (code, out.splitlines()[-1]) == (0, "0 of 3 runs are to be measured, by the plan that is there")
    (door.workflow.directory / "results/s/report.html").unlink()
    code, out, _ = door("run", "s.yaml", "--only", "layout=dp2")
    assert code == 0
    code, _, err = door("run", "s.yaml", "--only", "dp3")
    assert code == 64
    assert "here are serial fp32 x1, dp2 fp32 x1, tp2 fp32 x1" in " ".join(err.split())


def test_causes_come_on_the_terminal_with_the_log_after_them(door: Door) -> None:
    (door.workflow.directory / "broken").write_text("error: batch 7\n  rule:   it divides\n  remedy: take 8\n")
    code, out, err = door("run", "s.yaml")
    assert code == 1
    assert "error: batch 7\n  rule:   it divides\n  remedy: take 8" in err
    assert err.rstrip().endswith("all that it said is in logs/results/s/workflow.log")
    assert "CalledProcessError" not in out + err
    (door.workflow.directory / "broken").unlink()
    for label in ("serial", "dp2", "tp2"):
        door.workflow.fail(label, 9, 1)
    code, out, err = door("run", "s.yaml")
    assert code == 1, "a study without a result has failed"
    assert "none of 3 runs has a result" in err


def test_ctrl_c_leaves_nothing_and_the_same_command_goes_on(door: Door) -> None:
    (door.workflow.directory / "slow").touch()
    process = door.start("run", "s.yaml")
    logs = door.workflow.directory / "results/s/runs"
    wait_for(lambda: any("step 2 of 30" in path.read_text() for path in logs.glob("*/log.txt")), 60)
    code, out, _ = door("watch", "results/s", "--once")
    assert code == 0
    assert "fp32 x1: step" in out
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "stopped; hpc-accel run s.yaml goes on" in out
    assert gone(door.processes(), 5)
    assert not list((door.workflow.directory / ".snakemake/locks").glob("*"))
    (door.workflow.directory / "slow").unlink()
    assert door("run", "s.yaml")[0] == 0


def test_a_screen_that_is_killed_takes_its_workflow_with_it(door: Door) -> None:
    (door.workflow.directory / "slow").touch()
    process = door.start("run", "s.yaml")
    logs = door.workflow.directory / "results/s/runs"
    wait_for(lambda: any("step 1 of 30" in path.read_text() for path in logs.glob("*/log.txt")), 60)
    pids = door.processes()
    process.kill()
    process.communicate(timeout=10)
    assert gone(pids, 20)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "t.yaml"], "study t.yaml"),
        (["run", "s.yaml", "--profile", "slurn"], "a profile is a directory with a config.yaml"),
        (["watch", "results/none"], "give the directory of a study's results"),
        (["run", "s.yaml", "--only", "dp2"], "run without --only first"),
    ],
)
def test_mistakes_are_told_before_anything_starts(door: Door, words: list[str], told: str) -> None:
    began_s = time.monotonic()
    code, _, err = door(*words, timeout_s=30)
    assert code == 64
    assert told in " ".join(err.split())
    assert "Traceback" not in err
    assert time.monotonic() - began_s < 20
    assert not (door.workflow.directory / "logs").exists()
