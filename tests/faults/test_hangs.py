"""Rows 6 to 8: a rank that sleeps, is frozen, loops, or holds the interpreter is found within its limit and named."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from hpc_accel.runtime.hang import CHECKPOINT, LEARNT_FROM, LIMIT_S, READY, STEP, HangWatch
from tests.faults.started import gone, prepare, ranks_of, start

LIMIT = 5


@pytest.mark.mpi
@pytest.mark.parametrize("where", ["hang@1:20", "spin@1:20", "hold@1:20", "stop@1:20", "stop@1:0:ready"])
def test_rows_6_to_8(where, tmp_path):
    directory = prepare(tmp_path, {"dp": 2}, measure={"hang_after_s": LIMIT})
    kind, step = where.split("@")[0], where.split(":")[1]
    started = start(directory, where)
    started.until_training()
    began = time.monotonic()
    pids = ranks_of(directory)
    assert started.wait(LIMIT + 40) == 75, started.log()
    assert time.monotonic() - began < LIMIT + 5 + 10  # the steps before it, on busy cores
    summary = started.summary
    assert summary["status"] == "hung"
    assert summary["error"]["rank"] == 1
    assert f"step {step}" in summary["error"]["message"]
    if kind != "stop":
        assert "faults.py" in summary["error"]["message"], "where it was"
        assert "_hang" in (directory / "stacks.rank1.txt").read_text()
    assert "Thread" in (directory / "stacks.rank0.txt").read_text()
    assert gone(pids, 5)


FROZEN = """
import os, signal, sys
from hpc_accel.jobs import wake
from hpc_accel.jobs.child import Child
wake.PERIOD_S, wake.MOST_PERIODS = 0.1, 3
froze = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); raise SystemExit(7)"
raise SystemExit(Child().run([sys.executable, "-c", froze], os.environ))
"""


def test_a_frozen_launcher_is_woken():
    done = subprocess.run([sys.executable, "-c", FROZEN], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 7, done.stderr
    assert "was frozen for 0.3 s: woken" in done.stderr


def test_the_limit_is_learnt_from_steps(tmp_path, monkeypatch):
    watch = HangWatch(tmp_path, 0, ["here"], hang_after_s=None, start_up_s=7200)
    now = [1000.0]
    monkeypatch.setattr("hpc_accel.runtime.hang.time.monotonic", lambda: now[0])
    assert watch.limit_s == 7200, "as long as the run may take"
    for step in range(LEARNT_FROM + 1):
        watch.enter(STEP, step)
        now[0] += 10.0
    assert watch.limit_s == 200.0
    watch.enter(CHECKPOINT)
    assert watch.limit_s == LIMIT_S[CHECKPOINT]
    monkeypatch.undo()
    watch.close()
    assert list(tmp_path.iterdir()) == [], "nothing is left of a run that did not hang"


def test_ranks_that_rest_before_the_first_step_may_take_as_long_as_they_rest(tmp_path):
    for fixed_s, limit_s in ((None, LIMIT_S[READY] + 7), (5.0, 12.0)):
        watch = HangWatch(tmp_path, 0, ["here"], hang_after_s=fixed_s, idle_s=7.0)
        watch.enter(READY, 3)
        assert watch.limit_s == limit_s
        watch.close()


def test_quick_steps_may_still_take_a_minute(tmp_path):
    watch = HangWatch(tmp_path, 0, ["here"], hang_after_s=None)
    for step in range(LEARNT_FROM + 1):
        watch.enter(STEP, step)
    assert watch.limit_s == LIMIT_S[STEP]
    watch.close()
