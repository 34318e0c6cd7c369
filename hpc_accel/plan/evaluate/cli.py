"""`hpc-accel plan evaluate`: predictions against what others published, or against a study's own runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def plan_evaluate(
    path: Annotated[Path, typer.Argument(metavar="FILE.csv", help="Published measurements; or a study's own results.")],
    hardware: Annotated[str, typer.Option(help="A hardware.json, or the name of one that the package ships.")] = "",
    mapping: Annotated[Path | None, typer.Option(help="Which column is what, where the package does not know.")] = None,
    calibrate: Annotated[int, typer.Option(min=0, help="Take so many rows of each kind of block as measured.")] = 0,
    seed: Annotated[int, typer.Option(help="Which rows those are.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for programs.")] = False,
) -> None:
    """Compare predictions with measurements: errors, order of layouts, what the choice costs, memory."""
    from hpc_accel.plan.evaluate.show import results_table, table

    if path.is_dir():
        from hpc_accel.plan.evaluate.results import evaluate_results

        own = evaluate_results(path)
        typer.echo(json.dumps(own, indent=1) if as_json else "\n".join(results_table(own)))
        return
    from hpc_accel.plan.evaluate.run import evaluate

    found = evaluate(path, hardware, mapping=mapping, calibrate=calibrate, seed=seed)
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(table(found)))


def plan_replay(
    path: Annotated[Path, typer.Argument(metavar="FILE.csv", help="Published measurements.")],
    hardware: Annotated[str, typer.Option(help="A hardware.json, or the name of one that the package ships.")],
    mapping: Annotated[Path | None, typer.Option(help="Which column is what, where the package does not know.")] = None,
    budget: Annotated[float, typer.Option(min=0, max=1, help="Share of what a group's rows cost in full.")] = 0.05,
    short: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the steps that a run takes.")] = 0.2,
    most: Annotated[int | None, typer.Option(min=1, help="Most runs of a group.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for programs.")] = False,
) -> None:
    """Replay a published grid as if measured now: what a budget finds, by the planner, a rule, and by chance."""
    from hpc_accel.plan.evaluate.replay import replay
    from hpc_accel.plan.evaluate.show import replay_table

    found = replay(path, hardware, mapping=mapping, budget=budget, short=short, most=most)
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(replay_table(found)))
