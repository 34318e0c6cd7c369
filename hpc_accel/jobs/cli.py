"""What the workflow calls and nobody else: `hpc-accel run-script`, `failures`, `watch-queue`, `leave-queue`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run_script(
    path: Annotated[Path, typer.Argument(metavar="SCRIPT", help="A job.sbatch, probe.sbatch or a pack's.")],
    request: Annotated[Path, typer.Option(help="The request.json written with it.")],
    log: Annotated[Path, typer.Option(help="Gets all that the script says, appended.")],
    result: Annotated[Path, typer.Option(help="The file that the script leaves.")],
    attempt: Annotated[int, typer.Option(help="1 for the first.")] = 1,
    submit: Annotated[bool, typer.Option(help="Submit it where the site has a Slurm.")] = False,
) -> None:
    """Start a job script as the workflow does, and remove what is no result: 0 when there is one."""
    from hpc_accel.jobs.failures import cause_since
    from hpc_accel.jobs.run_script import keep_result
    from hpc_accel.jobs.run_script import run_script as start

    said_before = log.stat().st_size if log.is_file() else 0
    script_code = start(path, request, log, lambda job_id: typer.echo(f"job {job_id}"), submit=submit)
    typer.echo(f"attempt {attempt}: exit code {script_code}; all that was said is in {log}")
    code = keep_result(result, script_code, attempt)
    if code:
        typer.echo(cause_since(log, said_before), err=True)
    raise typer.Exit(code)


def failures(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A study's results.")],
    logs: Annotated[Path, typer.Option(help="Where the workflow's rules write theirs.")],
    since: Annotated[float, typer.Option(help="Unix time in seconds; what failed before is left out.")],
) -> None:
    """Say why rules and runs failed: value, rule, remedy, and the user's line."""
    from hpc_accel.jobs.failures import failures as find

    for text in find(results, logs, since):
        typer.echo(f"\n{text}", err=True)  # where Snakemake writes too


WorkflowPid = Annotated[int, typer.Argument(metavar="PID", help="Snakemake's process.")]
WorkflowLog = Annotated[Path, typer.Argument(metavar="LOG", help="Snakemake's log.")]


def watch_queue(pid: WorkflowPid, log: WorkflowLog) -> None:
    """Say why the workflow's jobs wait in Slurm's queue, until it ends."""
    from hpc_accel.jobs.queue import watch

    watch(pid, log, lambda text: typer.echo(text, err=True))


def leave_queue(pid: WorkflowPid, log: WorkflowLog) -> None:
    """After Ctrl-C: end the workflow within seconds, and say which jobs could not be cancelled."""
    from hpc_accel.jobs.queue import leave

    leave(pid, log, lambda text: typer.echo(text, err=True))
