"""`hpc-accel check STUDY` and `hpc-accel sources STUDY`: what the workflow asks of a study first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

LIMIT_S = 300.0
"""For one workload: a large data set on a busy file system needs its time."""
StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="A study file, for example studies/quickstart.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for programs.")]


def check(
    study: StudyPath,
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds for one workload, its data included.")] = LIMIT_S,
    out: Annotated[Path | None, typer.Option(help="Also write what was found to this file, if all is well.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try a study before anything is queued: file, site, each workload's data, a micro-batch forward and backward."""
    from hpc_accel.check.check import check_study
    from hpc_accel.check.show import lines
    from hpc_accel.files import write_json

    answer = check_study(study, limit_s=limit_s, results=out.parent if out else None)
    typer.echo(json.dumps(answer.to_json(), indent=1) if as_json else "\n".join(lines(answer)))
    for error in answer.errors:
        typer.echo(f"error: {error}", err=True)
    if answer.errors:
        raise typer.Exit(answer.errors[0].exit_code)
    if out is not None:
        write_json(out, answer.lasting())


def sources(study: StudyPath) -> None:
    """Print the user's files that the study's workloads depend on, with their digests, as JSON."""
    from hpc_accel.study.expand import resolve_workload
    from hpc_accel.study.study_file import load_study

    workloads = [resolve_workload(choice) for choice in load_study(study).workloads]
    typer.echo(json.dumps({name: digest for each in workloads for name, digest in each.sources.items()}))
