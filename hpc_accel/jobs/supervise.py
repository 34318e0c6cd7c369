"""One attempt at a run, from the launcher's start to the exit code: what a job script ends in.

    hpc-accel supervise RUN_DIR --allocation 2x4 -- mpirun -n 8 ... hpc-accel train RUN_DIR/run.json

It looks where it is (allocation), makes the launch line fit what is here (placement, daemons, staging), starts it and
passes signals on (child), and says how it ended (attempt, diagnosis, restart). It takes the place of the script's shell
by `exec`, so Slurm's warning reaches it. It is imported before every run: nothing here imports pydantic or torch.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from hpc_accel.files import read_json, write_json
from hpc_accel.jobs import allocation, attempt, daemons, history, placement
from hpc_accel.jobs.again import Again
from hpc_accel.jobs.allocation import Component
from hpc_accel.jobs.child import Child
from hpc_accel.jobs.diagnosis import diagnose, lost_node, told_by_hang, told_by_ranks
from hpc_accel.jobs.lock import only_attempt
from hpc_accel.jobs.preflight import check_machine
from hpc_accel.jobs.restart import decide_restart
from hpc_accel.jobs.staging import StagedEnvironment
from hpc_accel.study.sources import changed

IN_PACK = "HPC_ACCEL_PACK"
"""Set for runs that take turns in one allocation, of which each may use a part."""
LATE_SIGNAL_S = 0.5
"""Slurm signals a cancelled job's steps first: their launcher can be dead before this process is told why."""
STOPPED = 128 + signal.SIGTERM
SAVES_WITHIN_S = 60.0
"""A training that is stopped by a person saves first; a measurement is worth nothing in halves."""
REHEARSAL = "outside-slurm"
"""Directory of the records of a cluster's script that is started where there is no Slurm."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a script tells its supervisor beside the launch line."""

    wanted: tuple[Component, ...] = ()
    """The allocation that the script was written for; empty for a script of one machine without Slurm."""
    warn_before_end_s: int = 120
    max_restarts: int = 0
    stage: tuple[Path, Path] | None = None
    """An environment and the directory on every node that gets a copy of it."""
    result: str = ""
    """A file that the launched program must leave in the directory; empty for a run, which leaves a summary."""
    record_failure: bool = False
    """Whether that file says why the program failed, where it did not write it."""


def supervise(directory: Path, command: Sequence[str], settings: Settings) -> int:
    """Launch `command`, whose records go to `directory`, and give the script's exit code.

    Raises UsageError for an allocation of the wrong size, CannotCreateError where no records can be written, and what
    `check_machine` raises.
    """
    environ = os.environ
    in_slurm = allocation.is_inside(environ)
    if os.geteuid() == 0:  # containers, test clusters
        environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if in_slurm:
        allocation.restore_variables(environ)
        if settings.wanted and not environ.get(IN_PACK):
            allocation.check_size(list(settings.wanted), environ)
    else:
        # One host: shared memory is all there is to find, and looking for fabrics costs a second of start-up.
        environ.setdefault("OMPI_MCA_btl", "self,sm")
        if settings.wanted:
            command, directory = rehearse(directory, command)
    trains_to_its_end = not settings.result and history.is_kept(directory)
    if trains_to_its_end and history.is_finished(directory):
        tell(f"{directory}: the training has come to its end already; its weights are in {directory / 'weights'}")
        return 0
    check_machine(command, environ, tell, one_host=not in_slurm)
    if settings.result:
        return _supervise_program(directory, command, settings)
    attempt.check_writable(directory)
    with only_attempt(directory, tell):
        again = Again(directory, tell)
        code = _supervise_run(directory, command, settings)
        while code == 0 and again.is_wanted():
            # What was measured before stands, so a repeat that is cut short needs no second job.
            code = _supervise_run(directory, command, replace(settings, max_restarts=0))
        return again.settled(code)


def tell_edits(directory: Path, request: Path) -> dict[str, str]:
    """Say that site or study were edited since the script was written, which runs as it stands; the site's digest then.

    A run's directory lies two below its study's, whose `.study` names the study file and its digest when planned.
    """
    written_from = read_json(request).get("written_from") or {}
    planned, owner = {}, directory.parent.parent / ".study"
    if owner.is_file():
        path, _, known = owner.read_text().strip().partition("\n")
        planned = {path: known} if known else {}
    edited = changed(written_from | planned)
    if edited:
        tell(
            f"{', '.join(edited)}: edited since this script was written, which runs as it stands; for what they "
            "say now, plan again (hpc-accel plan) and write the scripts anew (hpc-accel script)"
        )
    return dict(written_from)


def rehearse(directory: Path, command: Sequence[str]) -> tuple[list[str], Path]:
    """The same command with its records apart: outside Slurm it must never pass for a measurement of the site."""
    apart = directory / REHEARSAL
    apart.mkdir(parents=True, exist_ok=True)
    for name in ("run.json", "runs.json"):
        if (directory / name).is_file():
            shutil.copyfile(directory / name, apart / name)
    tell(f"not in a Slurm job: records go to {apart}")
    prefix = f"{directory}/"
    return [f"{apart}/{word.removeprefix(prefix)}" if word.startswith(prefix) else word for word in command], apart


def _supervise_program(directory: Path, command: Sequence[str], settings: Settings) -> int:
    """A program that leaves one file, like the probe. There is nothing to save, so a warning stops it."""
    result = directory / settings.result
    directory.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)  # an older one must not pass for this attempt's
    child = Child(warn_as=signal.SIGTERM)
    with ExitStack() as stack:
        code = _launch(child, command, directory, settings, stack)
    if code == 0 and not (result.is_file() and result.stat().st_size):
        tell(f"the launcher ended with 0 but there is no {result}")
        code = 70
    if code and settings.record_failure and not result.is_file():
        failure = diagnose(code, child.asked_to_stop, os.environ.get("SLURM_JOB_ID"))
        if failure.status != "cancelled":
            write_json(result, {"problem": f"failed: {failure.message}"})
    return code


def _supervise_run(run_dir: Path, command: Sequence[str], settings: Settings) -> int:
    """A run: it saves a checkpoint when it is warned, and its record says how it ended."""
    environ = os.environ
    attempt.begin(run_dir, environ.get("SLURM_JOB_ID"))
    _note_begin(run_dir, environ.get("SLURM_JOB_ID"))
    neighbours = allocation.neighbours(environ)
    written_from = tell_edits(run_dir, run_dir / "request.json")
    saves_within_s = SAVES_WITHIN_S if history.is_kept(run_dir) else 0.0
    child = Child(lambda: attempt.keep_warning(run_dir), saves_within_s=saves_within_s)
    with ExitStack() as stack:
        exit_code = _launch(child, command, run_dir, settings, stack)
    if not attempt.has_succeeded(run_dir):
        if allocation.is_inside(environ) and not child.asked_to_stop:
            time.sleep(LATE_SIGNAL_S)
        if child.asked_to_stop == "TERM":
            exit_code = exit_code or STOPPED  # mpirun can end with 0 when its daemons were stopped with it
    job = attempt.facts(environ, launched_unix_s=child.started_unix_s, exit_code=exit_code)
    if history.is_kept(run_dir):
        history.note(run_dir, "end", exit_code=exit_code)
    failure = diagnose(exit_code, child.asked_to_stop, job["job_id"]) if exit_code else None
    if child.lost_node and not child.asked_to_stop:
        failure = lost_node(child.lost_node)
    for told in (told_by_hang, told_by_ranks):
        failure = failure and told(failure, run_dir, child.started_unix_s)
    if failure and failure.status == "cancelled" and job["job_id"] is None:
        # Ctrl-C on one's own machine is no result: without a record, the next start measures this run again.
        (run_dir / "summary.json").unlink(missing_ok=True)
        return failure.exit_code
    code = attempt.complete_record(run_dir, failure, job)
    progress = attempt.newest_checkpoint(run_dir)
    restart = decide_restart(
        code,
        restarts=job["attempt"] - 1,
        max_restarts=settings.max_restarts,
        own_batch_shell=allocation.is_batch_shell(environ),
        progress=progress,
        earlier=read_json(run_dir / "job.json"),
    )
    job |= {
        "format": 1,
        "neighbours": sorted({*neighbours, *job["neighbours"]}),
        "written_from": written_from,
        "progress": progress,
        "num_without_progress": restart.num_without_progress,
    }
    write_json(run_dir / "job.json", job)
    if restart.message:
        tell(restart.message)
    if restart.requeue:
        subprocess.run(["scontrol", "requeue", job["job_id"]], check=True)
    return restart.exit_code


def _note_begin(run_dir: Path, job_id: str | None) -> None:
    """Of an attempt at a training to its end."""
    if history.is_kept(run_dir):
        submitted = allocation.submitted_unix_s(job_id) if job_id else None
        began = attempt.process_started_unix_s()
        history.note(run_dir, "begin", unix_s=began, job_id=job_id, submitted_unix_s=submitted)


def _launch(child: Child, command: Sequence[str], directory: Path, settings: Settings, stack: ExitStack) -> int:
    """Start the launch line and wait for its end; what `stack` gets is undone when the attempt is over."""
    environ = dict(os.environ)
    in_slurm = allocation.is_inside(environ)
    if settings.stage and in_slurm:
        copy = stack.enter_context(StagedEnvironment(*settings.stage, settings.wanted, environ))
        environ["PATH"] = f"{copy}/bin:{environ['PATH']}"
    words = _placed(command, directory, settings, environ, stack)
    if words != list(command):
        tell(f"launching {shlex.join(words)}")
    if in_slurm and not allocation.is_batch_shell(environ):
        # Slurm warns its batch shell only, which under Snakemake is another process: watch the clock instead.
        end_unix_s = allocation.end_unix_s(environ["SLURM_JOB_ID"])
        if end_unix_s is not None:
            child.warn_in(end_unix_s - time.time() - settings.warn_before_end_s)
    limit_min = None if in_slurm else (read_json(directory / "run.json").get("resources") or {}).get("time_limit_min")
    if limit_min and not settings.result:
        # Here nobody else ends a run that hangs or takes longer than it was given.
        child.warn_in(limit_min * 60 - min(settings.warn_before_end_s, limit_min * 30), stop_in_s=limit_min * 60)
    return child.run(words, environ, is_launcher=True)


def _placed(
    command: Sequence[str], directory: Path, settings: Settings, environ: dict[str, str], stack: ExitStack
) -> list[str]:
    """The launch line for what is here: this MPI, these nodes or this machine."""
    words = list(command)
    in_slurm = allocation.is_inside(environ)
    if not in_slurm:
        if settings.wanted:
            recipe = read_json(directory / "run.json").get("recipe") or {}
            words = placement.on_one_machine(words, settings.wanted, recipe.get("cpu_bind") or "none", environ)
        else:
            words = placement.with_visible_gpus(words, environ)
    if words[0] != "mpirun":
        return words
    hydra = placement.is_hydra(environ)
    if in_slurm and len(settings.wanted) > 1:
        # Launchers cut paths at spaces, so the directory is not below the user's own.
        start = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hpc_accel-", dir="/tmp")))
        return daemons.over_all_nodes(words, settings.wanted, start, environ, hydra=hydra)
    return placement.in_hydra_words(words) if hydra else words


def tell(text: str) -> None:
    """A line for the log."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
