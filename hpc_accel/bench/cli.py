"""`hpc-accel bench ...`: the commands. Imports torch only when one starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bench = typer.Typer(help="Compare what this package brings with what torch has.", no_args_is_help=True)


@bench.command()
def backend(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    only: Annotated[str, typer.Option(help="Comma-separated rows, for example all_reduce,ddp_mlp.")] = "",
    ranks: Annotated[int, typer.Option(min=1, help="Ranks to start here; under a launcher, its own count.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="See that it works; the figures mean nothing.")] = False,
    max_mib: Annotated[int, typer.Option(min=1, help="The largest all-reduce; less on slow links.")] = 128,
    budget_s: Annotated[float, typer.Option(min=1, help="Seconds for each size of all-reduce, twice.")] = 30.0,
) -> None:
    """The mpi4py backend beside gloo: all-reduce, DDP, pipeline and FSDP2 steps, interleaved, as ratios."""
    from hpc_accel.bench.backend import bench_backend

    raise typer.Exit(bench_backend(only, json_path, ranks, quick, max_mib, budget_s))


@bench.command()
def gpu(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a trace of some steps here, for Perfetto.")] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Ranks to start here; under a launcher, its own count.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="See that it works; the figures mean nothing.")] = False,
) -> None:
    """The mpi4py backend on device tensors: staging beside copies, DDP steps beside nccl's and none, what is hidden."""
    from hpc_accel.bench.gpu import bench_gpu

    raise typer.Exit(bench_gpu(json_path, trace, ranks, quick))


@bench.command()
def report(
    runs: Annotated[int, typer.Option(min=1, help="Runs to make up.")] = 10_000,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each.")] = 1_000,
    keep: Annotated[Path | None, typer.Option(help="Leave the records and the page in this folder.")] = None,
) -> None:
    """Made-up records to a page in a browser: seconds, memory and sizes as JSON. Exit code 1 above a limit."""
    import json

    from hpc_accel.bench.report import bench_report

    found = bench_report(runs, steps, keep)
    typer.echo(json.dumps(found, indent=1))
    raise typer.Exit(1 if found["over_limit"] else 0)
