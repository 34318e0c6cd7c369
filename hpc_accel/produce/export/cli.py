"""`hpc-accel export`: the measured winner as another framework's configuration and launch script."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from hpc_accel.errors import UsageError


def export(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A study's results, e.g. results/mine.")],
    to: Annotated[str, typer.Option(help="torchrun, fsdp, accelerate, deepspeed or torchtitan.")],
    objective: Annotated[str | None, typer.Option(help="Export the best for time, energy or cost.")] = None,
    run: Annotated[str | None, typer.Option(help="Export this measured run, by its run_id.")] = None,
    workload: Annotated[str | None, typer.Option(help="Which, where the study has several.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to; by default export/<framework>/ in the results.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON, for programs.")] = False,
) -> None:
    """Write the best measured layout for another framework, with a table of what it keeps and what it cannot say."""
    from hpc_accel.produce.choose import choose
    from hpc_accel.produce.export.files import refuse_stream, write_export
    from hpc_accel.produce.export.rules import FRAMEWORKS

    if to not in FRAMEWORKS:
        raise UsageError(f"--to {to}", "frameworks are " + ", ".join(FRAMEWORKS), "name one of them")
    if objective not in (None, "time", "energy", "cost"):
        raise UsageError(f"--objective {objective}", "time, energy or cost", "name one of them")
    chosen, _ = choose(results, run=run, objective=cast(Any, objective), workload=workload)
    refuse_stream(chosen, to)
    directory = out or results / "export" / to
    rows = write_export(chosen, to, directory)
    if as_json:
        content = {"run_id": chosen.run_id, "directory": str(directory), "rows": [asdict(row) for row in rows]}
        typer.echo(json.dumps(content, indent=1, default=lambda value: value.model_dump(mode="json")))
        return
    lost = [row for row in rows if row.becomes is None]
    typer.echo(f"{chosen.run_id} ({chosen.label}) for {to}: {directory}")
    for row in lost:
        typer.echo(f"  cannot say {row.key} {row.value}: {row.why}")
    typer.echo(f"  {len(rows) - len(lost)} settings are kept: {directory}/mapping.md")
    typer.echo(f"start it: bash {directory}/launch.sh")
