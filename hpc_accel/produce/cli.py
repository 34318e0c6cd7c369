"""`hpc-accel produce`: the measured layout trained to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def produce(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A study's results, e.g. results/mine.")],
    objective: Annotated[str | None, typer.Option(help="Train the best for time, energy or cost.")] = None,
    run: Annotated[str | None, typer.Option(help="Train this measured run, by its run_id.")] = None,
    workload: Annotated[str | None, typer.Option(help="Which, where the study has several.")] = None,
    epochs: Annotated[int | None, typer.Option(help="How long.")] = None,
    steps: Annotated[int | None, typer.Option(help="How long.")] = None,
    tokens: Annotated[int | None, typer.Option(help="How long.")] = None,
    target_metric: Annotated[float | None, typer.Option(help="End when the metric is at least as good.")] = None,
    patience: Annotated[int | None, typer.Option(help="End after so many evaluations that were not better.")] = None,
    evaluate_every_steps: Annotated[int | None, typer.Option(help="Steps between evaluations.")] = None,
    name: Annotated[str | None, typer.Option(help="Of its directory; by default the workload's.")] = None,
    start: Annotated[bool, typer.Option(help="Start it, or only write its files.")] = True,
    wait: Annotated[bool, typer.Option("--wait", help="On a cluster: until the last job has ended.")] = False,
) -> None:
    """Train the best measured layout to its end, across as many jobs as it takes; leave weights for plain torch."""
    from hpc_accel.produce.produce import asked_of, begin, prepare
    from hpc_accel.report.write import write

    said = {
        **{"objective": objective, "run": run, "workload": workload, "name": name},
        **{"epochs": epochs, "steps": steps, "tokens": tokens},
        **{"target_metric": target_metric, "patience": patience, "evaluate_every_steps": evaluate_every_steps},
    }
    written = prepare(results, asked_of(results, said))
    if written.is_finished:
        typer.echo(
            f"{written.directory}: this training has come to its end already; weights: {written.directory}/weights"
        )
        return
    forecast = written.forecast
    typer.echo(f"{written.run.label}: {written.run.measure.steps} steps in {written.directory}")
    hours = f"{forecast.time_s.value / 3600:.3g} h" if forecast.time_s.value is not None else forecast.time_s.reason
    energy = f"{forecast.energy_j.value:.4g} J" if forecast.energy_j.value is not None else forecast.energy_j.reason
    typer.echo(f"forecast: {hours} of steps in {written.num_jobs} job(s); energy: {energy}")
    if not start:
        typer.echo(f"start it: {'bash' if written.site.scheduler == 'none' else 'sbatch'} {written.script}")
        return
    code = begin(written, typer.echo, wait=wait)
    if code:
        raise typer.Exit(code)
    if written.is_finished:
        write(results)
        typer.echo(f"trained: weights of the last and the best step are in {written.directory}/weights")
