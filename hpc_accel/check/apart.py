"""The user's code in a process of its own, under a time limit: whatever it does there, here it becomes a message.

The process writes one file for each workload it is through with, and what it is doing to another file. Where it ends
without a word (`os._exit`, a crash, a signal) or does not end, that is told with the user's line, and a new process
goes on with the next workload.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

from hpc_accel.errors import ConfigError, HpcAccelError, RetryableError, from_json
from hpc_accel.files import read_json
from hpc_accel.study.sources import is_users

DOING, STACKS, EXITS = "doing.txt", "stacks.txt", "exits.txt"
"""Files of the process: what it is doing now; its stacks when it hung or crashed; where somebody called os._exit."""
GRACE_S = 5.0
"""After its time limit the process itself writes its stacks; one that cannot even do that is ended."""
START_S = 120.0
"""For Python to import torch, which on a busy file system takes its time."""
TAIL_LINES = 10
"""Kept of what the user's code prints: a million lines take no memory and no disk."""
MAX_LINE = 500
Result = dict[str, Any] | HpcAccelError


def try_apart(study: Path, names: list[str], limit_s: float) -> list[Result]:
    """What `child.py` found of each of the study's workloads, or the error in its place."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="hpc_accel-check-") as name:
        directory = Path(name)
        while len(results) < len(names):
            process = _Process(study, len(results), directory, limit_s)
            try:
                process.wait()
            finally:
                process.end()
            while (path := directory / f"{len(results)}.json").exists() and len(results) < len(names):
                content = read_json(path)
                results.append(from_json(content["error"]) if "error" in content else content)
            if len(results) < len(names):
                results.append(process.explain(names[len(results)]))
    return results


class _Process:
    """One start of `child.py`, from workload number `first` on."""

    def __init__(self, study: Path, first: int, directory: Path, limit_s: float) -> None:
        self.first, self.directory, self.limit_s = first, directory, limit_s
        for file in (DOING, STACKS, EXITS):
            (directory / file).unlink(missing_ok=True)
        # -P: a user's `queue.py` in the working directory must not stand in for Python's own.
        arguments = [str(study), str(first), str(directory), str(limit_s)]
        command = [sys.executable, "-P", "-m", "hpc_accel.check.child", *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert self.process.stdout is not None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self.reader.start()
        self.hung = False

    def wait(self) -> None:
        """Until the process ends, or one workload takes too long."""
        number, since_s = self.first, time.monotonic() + START_S
        while self.process.poll() is None:
            if since_s > time.monotonic() and (self.directory / DOING).exists():
                since_s = time.monotonic()
            if (self.directory / f"{number}.json").exists():
                number, since_s = number + 1, time.monotonic()
            late_s = time.monotonic() - since_s - self.limit_s
            if late_s > GRACE_S or (late_s > 0 and _text(self.directory / STACKS)):
                self.hung = True
                return
            time.sleep(0.02)

    def end(self) -> None:
        """End the process and what it started, and read what it printed last."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(timeout=1)

    def explain(self, name: str) -> HpcAccelError:
        """Why there is no result for the workload `name`."""
        doing = _text(self.directory / DOING) or "starting"
        code, said = self.process.returncode, _text(self.directory / EXITS).strip()
        where = _users_line(_text(self.directory / STACKS))
        if self.hung:
            error: HpcAccelError = RetryableError(
                f"{name}: no end within {self.limit_s:g} s while {doing}",
                "a workload is built and tried on a few samples in that time",
                "correct the line that is named, or give more time with --limit-s (the workflow gives 900 s)",
            )
        elif code < 0 and code != -signal.SIGKILL:
            error = ConfigError(
                f"{name}: killed by {signal.Signals(-code).name} while {doing}",
                "the workload's code does not crash",
                "try what the line that is named calls alone, and look for a library built for another processor",
            )
        elif code < 0:
            error = ConfigError(
                f"{name}: killed by SIGKILL while {doing}",
                "one process builds the workload in the memory that this machine has free",
                "most often memory ran out: load data where it is read, in dataset[i], not in build()",
            )
        else:
            where = where or said or None
            error = ConfigError(
                f"{name}: the process was ended with exit code {code} while {doing}{self._printed()}",
                "the workload's code returns to its caller and ends no process",
                "take os._exit() out; raise an exception where something is wrong",
            )
        error.where = where
        return error

    def _printed(self) -> str:
        last = [line for line in self.tail if line.strip()]
        return f"; it printed last: {last[-1].strip()}" if last else ""

    def _read(self, stream: IO[bytes]) -> None:
        while line := stream.readline(MAX_LINE):
            self.tail.append(line.decode("utf-8", "replace"))


def _users_line(stacks: str) -> str | None:
    """The innermost line of the user's in what faulthandler wrote, of the thread that it says called it, else any."""
    for thread in sorted(re.split(r"\n\n", stacks), key=lambda text: "Current thread" not in text):
        for path, line, function in re.findall(r'File "(.*)", line (\d+) in (.*)', thread):
            if is_users(Path(path)):
                return f"{path}:{line} in {function}"
    return None


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""
