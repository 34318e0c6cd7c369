"""How the workflow starts a job script, and which of its ends are results.

A run that failed is tried once more; its second failure, or at once a wrong configuration (78), is its result, so that
the others and the report go on. A run that was cancelled, or warned and stopped, has no result: the next start of the
workflow goes on with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from hpc_accel.files import read_json
from hpc_accel.jobs import allocation
from hpc_accel.jobs.child import Child
from hpc_accel.jobs.pack import BAD_CONFIGURATION, NUM_TRIES
from hpc_accel.jobs.submit import submit_and_wait

UNFINISHED = frozenset({"cancelled", "preempted"})
"""Status of a run that ended before it had a result, and can go on."""


def run_script(script: Path, request: Path, log: Path, tell: Callable[[str], None], *, submit: bool = False) -> int:
    """Start `script`, append what it says to `log`, and give its exit code. `request` is its request.json.

    It runs here: in the job that Snakemake sent for it, or on this machine. With `submit` the workflow sends no jobs
    itself, because its plugin can send none of several components: then the script is submitted where the site has a
    Slurm, and `tell` gets the job's id.
    """
    end_with_workflow()
    asked = read_json(request)
    runs_here = allocation.is_inside(os.environ) or asked.get("measuring")
    if not runs_here and (submit or asked.get("hetjob")):
        return submit_and_wait(script, tell)
    with log.open("ab") as file:
        return Child().run(["bash", str(script)], os.environ, stdout=file, stderr=file)


def keep_result(result: Path, exit_code: int, attempt: int) -> int:
    """Remove what is no result of the attempt (1, 2, ...); 0 when a result stands, else the script's exit code."""
    stands = exit_code in {0, BAD_CONFIGURATION} or attempt >= NUM_TRIES
    if read_json(result).get("status") in UNFINISHED or not stands:
        result.unlink(missing_ok=True)
    return 0 if exit_code == 0 or (result.is_file() and result.stat().st_size) else exit_code


def end_with_workflow() -> None:
    """End as SIGTERM ends this process when a Snakemake that started it is gone, by SIGKILL for example.

    A script that outlived it would measure beside those that the next start of the workflow runs.
    """
    handles = []
    for pid in _workflows():
        with contextlib.suppress(OSError):  # a kernel before Linux 5.3
            handles.append(os.pidfd_open(pid))
    if handles:
        threading.Thread(target=_wait, args=(handles,), name="hpc_accel:workflow", daemon=True).start()


def _wait(handles: list[int]) -> None:
    select.select(handles, [], [])
    os.kill(os.getpid(), signal.SIGTERM)


def _workflows() -> list[int]:
    """The Snakemakes above this process."""
    found, pid = [], os.getppid()
    while pid > 1:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:4]
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
        if any(Path(os.fsdecode(word)).name == "snakemake" for word in words):
            found.append(pid)
        pid = parent
    return found
