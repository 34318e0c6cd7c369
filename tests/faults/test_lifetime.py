"""Rows of what ends and what must not stay: killed ranks, launchers, scripts; two starts at once; crashes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.started import STEPS, alive, gone, prepare, ranks_of, start, workers_of

pytestmark = pytest.mark.mpi


def test_row_1_a_killed_rank_with_data_workers_ends_all(tmp_path):
    directory = prepare(tmp_path, {"dp": 2}, recipe={"data_workers": 1})
    started = start(directory, f"kill@1:{STEPS // 40}")
    started.until_training()
    # A rank trains before the other rank's worker is there, where the machine is busy.
    started.until(30, lambda: len(workers_of(ranks_of(directory))) >= 4)
    below = workers_of(ranks_of(directory))
    assert started.wait(30) == 137
    assert "SIGKILL" in started.summary["error"]["message"]
    assert gone(below, 10)
    assert ranks_of(directory) == []


def test_row_5_a_crash_in_c_names_the_python_line(tmp_path):
    directory = prepare(tmp_path, {"dp": 2})
    started = start(directory, "crash@1:5")
    assert started.wait(60) == 139
    error = started.summary["error"]
    assert error["rank"] == 1
    assert "SIGSEGV" in error["message"]
    assert "in string_at" in error["message"]
    assert "faults.py" in (directory / "stacks.rank1.txt").read_text(), "the way there"


def test_row_9_launcher_and_script_killed_leave_no_rank(tmp_path):
    for victim in ("script", "launcher"):
        directory = prepare(tmp_path / victim, {"dp": 2})
        started = start(directory)
        started.until_training()
        pids = ranks_of(directory)
        assert len(pids) >= 4, "the supervisor, the launcher and two ranks"
        launcher = next(pid for pid in pids if is_launcher(pid))
        os.kill(started.process.pid if victim == "script" else launcher, signal.SIGKILL)
        assert gone(pids, 10), victim
        started.wait(10)


def is_launcher(pid):
    name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    return name.endswith((b"mpirun", b"prterun"))


def test_row_27_a_second_start_is_refused_and_a_dead_one_replaced(tmp_path):
    directory = prepare(tmp_path, {"dp": 2}, measure={"steps": 200_000})
    first = start(directory)
    first.until_training()
    before = first.log()
    second = start(directory)
    assert second.wait(20) == 75
    told = second.log().removeprefix(before)
    assert f"process {first.process.pid} on " in told
    assert "remedy" in told
    assert alive(first.process.pid)
    pids = ranks_of(directory)
    os.kill(first.process.pid, signal.SIGKILL)
    assert gone(pids, 10)
    first.wait(5)
    # Where it goes on is as far as the first had saved, so no step ends it: it is ended when it has told.
    third = start(directory)
    third.until(30, lambda: "takes its place" in third.log())
    assert f"process {first.process.pid} on " in third.log().rpartition("takes its place")[0].rpartition("\n")[2]
    pids = ranks_of(directory)
    os.kill(third.process.pid, signal.SIGKILL)
    assert gone(pids, 10)
    third.process.wait(5)


BAD_END = """
import atexit, ctypes, os, threading, time
import torch
from torch import nn
if os.environ.get("BAD_END"):
    atexit.register(lambda: ctypes.string_at(0))
    threading.Thread(target=lambda: time.sleep(3600)).start()
class Talks(nn.Linear):
    def forward(self, inputs):
        if os.environ.get("BAD_END"):
            print("a line\\n" * 25_000)
        return super().forward(inputs)
    def __del__(self):
        if os.environ.get("BAD_END"):
            raise RuntimeError("it cannot be deleted")
def build():
    data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
    return nn.Sequential(Talks(4, 4), nn.Linear(4, 1)), nn.functional.mse_loss, data
"""


def test_a_whole_record_survives_a_million_lines_a_thread_that_never_ends_and_a_crash_at_exit(tmp_path, monkeypatch):
    (tmp_path / "bad_end_of_test.py").write_text(BAD_END)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    workload = {"entry": "bad_end_of_test:build", "global_batch_size": 32}
    directory = prepare(tmp_path, {"dp": 2}, workload, measure={"steps": 20})
    started = start(directory, BAD_END="1")
    assert started.wait(60) == 0, started.log()[-2000:]
    assert started.summary["status"] == "completed"
    assert started.log().count("a line") >= 1_000_000


def test_a_local_run_keeps_its_time_limit(tmp_path):
    directory = prepare(
        tmp_path, {"dp": 2}, measure={"steps": 2_000_000}, resources={"ranks_per_node": 8, "time_limit_min": 1}
    )
    began = time.monotonic()
    started = start(directory)
    assert started.wait(75) == 75
    assert 20 < time.monotonic() - began < 65
    assert started.summary["status"] == "preempted"
    assert (directory / "checkpoints" / "latest").exists()


FINALIZE = """
import os
import torch
from torch import nn
from mpi4py import MPI
class Net(nn.Linear):
    def forward(self, inputs):
        if os.environ.get("FINALIZE") == "forward":
            MPI.Finalize()
        return super().forward(inputs)
def build():
    if os.environ.get("FINALIZE") == "build":
        MPI.Finalize()
    data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
    return nn.Sequential(Net(4, 4), nn.Linear(4, 1)), nn.functional.mse_loss, data
"""


@pytest.mark.parametrize(("where", "line"), [("build", 13), ("forward", 9)])
def test_row_39_mpi_that_the_users_code_ends_is_named_by_its_line(tmp_path, monkeypatch, where, line):
    (tmp_path / "finalize_of_test.py").write_text(FINALIZE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    workload = {"entry": "finalize_of_test:build", "global_batch_size": 32}
    directory = prepare(tmp_path, {"dp": 2}, workload, measure={"steps": 20})
    started = start(directory, FINALIZE=where)
    assert started.wait(60) == 78, started.log()
    message = started.summary["error"]["message"]
    assert "MPI.Finalize() at " in message
    assert f"finalize_of_test.py:{line} in {where}" in message
