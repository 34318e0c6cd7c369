"""A run started as people start it, by `bash job.sbatch`, with a fault in it; what is left of it afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_accel.files import read_json
from hpc_accel.jobs.write import write_runs_below
from tests.mpirun import ROOT
from tests.train.test_layouts import write_runs

STEPS = 4000
MEASURE = {"warmup_steps": 2, "steps": STEPS, "parity_steps": 0, "metric_samples": 0, "idle_s": 0}


@dataclass
class Started:
    """A script under way; `process` leads a session of its own."""

    directory: Path
    process: subprocess.Popen[str]

    def wait(self, timeout_s: float) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            for pid in ranks_of(self.directory):
                os.kill(pid, signal.SIGKILL)
            self.process.kill()
            raise AssertionError(f"no end in {timeout_s} s: {self.log()[-2000:]}") from None

    def until(self, seconds: float, true: Any) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"not in {seconds} s: {self.log()[-2000:]}"
            assert self.process.poll() is None, self.log()[-2000:]
            time.sleep(0.05)

    def until_training(self) -> None:
        self.until(60, (self.directory / ".ready").exists)

    def log(self) -> str:
        return (self.directory / "told.txt").read_text()

    @property
    def summary(self) -> dict[str, Any]:
        return read_json(self.directory / "summary.json")


def prepare(tmp_path: Path, layout: dict[str, Any], workload: dict[str, Any] | None = None, **study: Any) -> Path:
    """The directory of one run with its script."""
    recipe = study.pop("recipe", None)
    study["measure"] = MEASURE | study.pop("measure", {})
    [path] = write_runs(tmp_path, workload or {"name": "mlp"}, [layout], recipe=recipe, **study)
    write_runs_below(path.parent)
    return path.parent


def start(directory: Path, fault: str = "", *, before: Sequence[str] = (), **environment: str) -> Started:
    """Start the script in `directory`, with a fault of train/faults.py; `before` is a command that starts commands."""
    environ = {**os.environ, "PYTHONPATH": f"{directory.parent}:{ROOT}", "OMP_NUM_THREADS": "1", **environment}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    if fault:
        environ |= {"HPC_ACCEL_TESTING": "1", "HPC_ACCEL_FAULT": fault}
    with (directory / "told.txt").open("a") as log:
        command = [*before, "bash", str(directory / "job.sbatch")]
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, text=True, start_new_session=True)
    return Started(directory, process)


def ranks_of(directory: Path) -> list[int]:
    """Processes that were started for the run in `directory`, and what they left: their command or environment says."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(path.name) != os.getpid() and str(directory).encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def workers_of(pids: list[int]) -> list[int]:
    """The data workers and fork servers below these processes."""
    below, found = set(pids), []
    for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in below:
                below.add(int(path.name))
                found.append(int(path.name))
    return found


def gone(pids: list[int], within_s: float) -> bool:
    """Whether all these processes end in time; a zombie has ended."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not [pid for pid in pids if alive(pid)]:
            return True
        time.sleep(0.1)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
