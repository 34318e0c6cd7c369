"""Snakemake as a process beside the screen: its command line, the log of what it says, and how Ctrl-C ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hpc_accel.errors import UsageError
from hpc_accel.jobs.child import at_parents_end
from hpc_accel.study.starter.project import SNAKEFILE, WORKFLOW

ENDS_WITHIN_S = 60.0
"""After Ctrl-C: the workflow cancels its jobs and ends within half a minute, also where Slurm does not answer."""


def command(study: Path, *, profile: str | None, jobs: int | None, further: Sequence[str]) -> list[str]:
    """What a person would type. Raises UsageError where there is no Snakemake or no such profile."""
    words = [str(Path(sys.executable).with_name("snakemake"))]
    if not Path(words[0]).exists():
        raise UsageError("no snakemake", "the workflow is Snakemake's", "pip install 'hpc-accel[workflow]'")
    if not Path("Snakefile").is_file():
        words += ["--snakefile", str(SNAKEFILE)]
    if profile is None:
        words += ["--cores", str(jobs or "all")]
    else:
        words += ["--profile", str(_directory_of(profile)), *(["--jobs", str(jobs)] if jobs else [])]
    return [*words, *further, "--config", f"study={study}"]


def _directory_of(profile: str) -> Path:
    """A profile of this directory, else one that came with the package."""
    for path in (Path(profile), WORKFLOW / profile):
        if any((path / f"config.{ending}").is_file() for ending in ("yaml", "v8+.yaml", "v9+.yaml")):
            return path
    raise UsageError(f"--profile {profile}", "a profile is a directory with a config.yaml", "--profile slurm")


class Workflow:
    """A Snakemake that was started; what it says goes to `log`."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        environ, program = dict(os.environ), Path(sys.argv[0])
        if program.name == "hpc-accel":  # called by its path: the rules call it by its name
            environ["PATH"] = f"{program.parent.resolve()}:{environ.get('PATH', os.defpath)}"
        with log.open("wb") as file:
            # In a session of its own: Ctrl-C reaches the screen alone, which passes it on once. A screen that is
            # killed without a word takes its workflow with it.
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environ,
                start_new_session=True,
                preexec_fn=partial(at_parents_end, signal.SIGHUP),  # noqa: PLW1509  # no other thread runs yet
            )

    def ends_within(self, seconds: float) -> int | None:
        """Its exit code if it ends by then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def stop(self) -> int:
        """End it as Ctrl-C does, and all that it started here with it; its exit code."""
        end_s = time.monotonic() + ENDS_WITHIN_S
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        code = self.ends_within(end_s - time.monotonic())
        if code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            code = self._process.wait()
        return code
