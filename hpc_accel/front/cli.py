"""`hpc-accel run` and `hpc-accel watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study file, for example studies/quickstart.yaml.")],
    profile: Annotated[
        str | None, typer.Option(metavar="DIRECTORY", help="A Snakemake profile: slurm. Without it runs happen here.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Jobs in the queue, or cores of this machine.")] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="WORDS", help="Only planned runs of this label: dp2, layout=dp2,precision=bf16."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be measured.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Events and the answer as JSON lines.")] = False,
) -> None:
    """Measure a study from its check to its answer, and show how far it is. The same command goes on after Ctrl-C."""
    from hpc_accel.front.run import planned_runs, run_study

    if dry_run:
        typer.echo(planned_runs(study))
        return
    code = run_study(study, profile=profile, jobs=jobs, only=only, as_json=as_json, tell=typer.echo)
    if code:
        raise typer.Exit(code)


def watch(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A study's results, e.g. results/quickstart.")],
    once: Annotated[bool, typer.Option("--once", help="Say how far it is, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Events as JSON lines.")] = False,
) -> None:
    """Show how far a study is that runs already: started by anybody, here or by Slurm. Ctrl-C ends the view only."""
    from hpc_accel.front.run import watch_study

    code = watch_study(results, as_json=as_json, once=once, tell=typer.echo)
    if code:
        raise typer.Exit(code)
