"""A workflow's jobs in Slurm's queue, beside Snakemake: why they wait, and what is left of them after Ctrl-C.

Snakemake's plugin tells neither, and waits for ever for a Slurm that does not answer. Both commands run beside the
workflow, in a session of their own, and end with it. Which jobs are the workflow's they read from its log.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

FIRST_LOOK_S, PERIOD_S = 3.0, 20.0
TIMEOUT_S = 5.0
"""For squeue and scancel; a Slurm that is well answers in a fraction of a second."""
LEAVES_S = 8.0
"""For Snakemake to cancel its jobs and end by itself."""
LOCKS = Path(".snakemake/locks")
ENDING = frozenset({"COMPLETING", "CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "PREEMPTED", "NODE_FAIL"})
_SUBMITTED = re.compile(r"Job (\d+) has been submitted with SLURM jobid (\d+)")
_FINISHED = re.compile(r"Finished jobid: (\d+)|Error in rule .*?\n +jobid: (\d+)")
REASONS = {
    "Priority": "jobs of higher priority are before it",
    "Resources": "the nodes that it needs are busy",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved: ask sinfo -R",
    "PartitionNodeLimit": "it asks for more nodes than the partition gives: it will never start; correct the study",
    "PartitionTimeLimit": "it asks for more time than the partition gives: it will never start; lower time_limit_min",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs now",
    "JobHeldUser": "it is held: scontrol release",
    "JobHeldAdmin": "an administrator holds it",
    "BeginTime": "it was queued again and starts in some minutes",
    "Dependency": "it waits for another job",
    "Reservation": "it waits for its reservation",
    "Licenses": "it waits for a licence",
    "AssociationJobLimit": "your account runs as many jobs as it may",
}


class Queued(NamedTuple):
    """A job as squeue tells it."""

    state: str
    reason: str


def submitted(log: Path) -> list[str]:
    """Slurm's ids of the jobs that Snakemake's log says were sent and not that they ended."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    events = [(found.start(), found.groups()) for found in _SUBMITTED.finditer(text)]
    events += [(found.start(), (found[1] or found[2],)) for found in _FINISHED.finditer(text)]
    ids: dict[str, str] = {}
    for _, (job, *slurm) in sorted(events):
        if slurm:
            ids[job] = slurm[0]
        else:
            ids.pop(job, None)
    return list(ids.values())


def ask_queue() -> dict[str, Queued] | str:
    """This user's jobs by id, or why Slurm did not say."""
    user = pwd.getpwuid(os.getuid()).pw_name
    told = _call(["squeue", "--noheader", f"--user={user}", "--format=%i|%T|%r"])
    if told.why:
        return told.why
    rows = [line.strip().split("|", 2) for line in told.output.splitlines()]
    return {row[0]: Queued(row[1], row[2]) for row in rows if len(row) == 3}


def watch(workflow_pid: int, log: Path, tell: Callable[[str], None]) -> None:
    """Until the workflow ends: tell why each of its jobs waits, once, and again when the reason is another."""
    known: dict[str, str] = {}
    silent = False
    wait_s = FIRST_LOOK_S
    while not _ends_within(workflow_pid, wait_s):
        wait_s = PERIOD_S
        ids = submitted(log)
        if not ids:
            wait_s = FIRST_LOOK_S
            continue
        queue = ask_queue()
        if isinstance(queue, str):
            if not silent:
                tell(f"the state of {len(ids)} job(s) is not known: {queue}; asked again until Slurm answers")
            silent = True
            continue
        silent = False
        for job_id in ids:
            state, reason = queue.get(job_id, Queued("", ""))
            if state == "PENDING" and reason not in {"None", known.get(job_id)}:
                known[job_id] = reason
                why = REASONS.get(reason.partition(",")[0].strip("()"), "")
                tell(f"job {job_id} waits: {reason}{f' ({why})' if why else ''}")


def leave(workflow_pid: int, log: Path, tell: Callable[[str], None]) -> None:
    """After Ctrl-C: end the workflow where it does not end, cancel what it left, tell what could not be cancelled."""
    ended = _ends_within(workflow_pid, LEAVES_S)
    ids = submitted(log)
    left, why = _left_of(ids)
    if left:
        told = _call(["scancel", *left])
        why = told.why or why
        if not told.why:
            left, why = _left_of(ids)
    if left:
        tell(
            f"{len(left)} job(s) may still run: {' '.join(left)}: {why or 'scancel did not end them'}\n"
            "  rule:   Ctrl-C cancels the jobs of the workflow\n"
            f"  remedy: when Slurm answers, scancel {' '.join(left)}"
        )
    elif ids:
        tell(f"{len(ids)} job(s) are cancelled")
    if not ended and not _ends_within(workflow_pid, 0.0):
        os.kill(workflow_pid, signal.SIGKILL)
        for lock in LOCKS.glob("*.lock"):  # it cannot remove them any more, and nothing of it runs
            lock.unlink(missing_ok=True)
        tell("Snakemake waited for Slurm and was ended; the same command continues")


def _left_of(ids: Sequence[str]) -> tuple[list[str], str]:
    """Which of these jobs have not ended as far as Slurm says, and why it does not say, in which case all."""
    if not ids:
        return [], ""
    queue = ask_queue()
    if isinstance(queue, str):
        return list(ids), queue
    return [job_id for job_id in ids if job_id in queue and queue[job_id].state not in ENDING], ""


class _Answer(NamedTuple):
    output: str
    why: str
    """Why there is none."""


def _call(command: Sequence[str]) -> _Answer:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return _Answer("", f"{command[0]} did not answer within {TIMEOUT_S:g} s")
    except OSError as error:
        return _Answer("", f"{command[0]}: {error.strerror}")
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return _Answer(done.stdout, f"{command[0]}: {last}" if done.returncode else "")


def _ends_within(pid: int, seconds: float) -> bool:
    """Whether process `pid` has ended by then; a zombie has ended."""
    end_s = time.monotonic() + seconds
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        if time.monotonic() >= end_s:
            return False
        time.sleep(min(0.2, max(0.0, end_s - time.monotonic())))
