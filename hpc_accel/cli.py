"""`hpc-accel ...`: every command, thin. It parses, calls one room, prints; it imports torch only where needed."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hpc_accel.bench.cli import bench
from hpc_accel.check.cli import check, sources
from hpc_accel.compare.cli import compare
from hpc_accel.errors import HpcAccelError, UsageError
from hpc_accel.front.cli import run, watch
from hpc_accel.jobs.cli import failures, leave_queue, run_script, watch_queue
from hpc_accel.leave import run_and_leave
from hpc_accel.plan.advise.cli import advise
from hpc_accel.plan.evaluate.cli import plan_evaluate, plan_replay
from hpc_accel.plan.explain.cli import plan_explain
from hpc_accel.produce.cli import produce
from hpc_accel.produce.export.cli import export

app = typer.Typer(
    help="Find by measurement how a PyTorch model trains fastest, cheapest and with least energy on this cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")
app.command()(run)
app.command()(watch)
app.command()(check)
app.command()(sources)
app.command()(produce)
app.command()(compare)
app.command()(advise)
app.command()(export)
app.command(hidden=True)(run_script)
app.command(hidden=True)(failures)
app.command(hidden=True)(watch_queue)
app.command(hidden=True)(leave_queue)
StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="A study file, for example studies/quickstart.yaml.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run.json that `hpc-accel plan` wrote.")]
MAX_REFUSED_SHOWN = 10
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for programs.")]


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hpc-accel {version('hpc-accel')}")
        raise typer.Exit()


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    pass


@app.command()
def doctor(
    as_json: AsJson = False,
    site: Annotated[str | None, typer.Option(help="Compare this site file with the Slurm that is here.")] = None,
) -> None:
    """What this machine has (MPI, launcher, devices, sensors, Slurm, torch), and what to do about each gap."""
    from hpc_accel import doctor as room

    findings = room.examine(site)
    if as_json:
        typer.echo(json.dumps([finding.to_json() for finding in findings], indent=1))
    else:
        room.show(findings)
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(1)


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="Where to write; created when missing.")] = Path(),
    name: Annotated[str, typer.Option(help="Name of the study and of the module.")] = "mine",
    kind: Annotated[
        str,
        typer.Option("--from", help="What you start from: plain, huggingface, vision, or script (a loop of yours)."),
    ] = "plain",
    site: Annotated[str | None, typer.Option(help="Instead: draft slurm/sites/SITE.yaml from sinfo.")] = None,
    list_workloads: Annotated[bool, typer.Option("--list", help="Instead: say which workloads are built in.")] = False,
) -> None:
    """Write a commented study and a module with your own model to start from; or draft a site file."""
    if list_workloads:
        from hpc_accel.study.builtin_workloads import listing

        typer.echo(listing())
        return
    if site is not None:
        from hpc_accel.jobs.compare_site import write_site

        typer.echo(f"wrote {write_site(directory, site)}")
        typer.echo(f"next: read it, add what sinfo does not know, then hpc-accel doctor --site {site}")
        return
    from hpc_accel.study.starter import write_starter

    for path in write_starter(directory, name, kind):
        typer.echo(f"wrote {path}")
    typer.echo(f"next: hpc-accel run studies/{name}.yaml")


@app.command()
def probe(
    study: StudyPath,
    out: Annotated[Path, typer.Option(help="Where to write hardware.json.")],
) -> None:
    """Measure this machine: matrix products, memory, MPI latency and bandwidth, sensors. Run it under mpirun."""
    from hpc_accel.commands import probe_machine

    if probe_machine(study, out):
        typer.echo(f"wrote {out}")


class _PlanGroup(TyperGroup):
    """`plan STUDY ...` is `plan study STUDY ...`: only another command's name comes before that."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args != ["--help"]:
            args = ["study", *args]
        return super().parse_args(ctx, args)


planning = typer.Typer(
    cls=_PlanGroup, help="Plan a study (`plan STUDY`), explain a prediction, or see how good plans are."
)
app.add_typer(planning, name="plan")


@planning.command("study")
def plan(
    study: StudyPath,
    hardware: Annotated[
        str, typer.Option(help="The hardware.json that `hpc-accel probe` wrote, or h100-sxm and such.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where to write plan.json; run.json files go to runs/ beside it.")
    ] = None,
    runs: Annotated[bool, typer.Option(help="Also write the run.json of every chosen run.")] = True,
    as_json: AsJson = False,
) -> None:
    """Enumerate layouts and recipes, predict each, and choose the runs to be measured.

    Without --out the plan is only looked at, for a machine that is elsewhere: plans/<hardware>.json in the results.
    """
    from hpc_accel.commands import plan_study, predicted_lines, write_runs

    only_looked_at = out is None
    out = out or Path("results", study.stem, "plans", f"{Path(hardware).stem}.json")
    content = plan_study(study, hardware, out)
    if runs and not only_looked_at:
        write_runs(content, out.parent)
    if as_json:
        typer.echo(json.dumps(content))
        return
    chosen = [candidate for candidate in content["candidates"] if candidate["chosen"]]
    refused = [candidate for candidate in content["candidates"] if candidate["refused"]]
    for note in content["notes"]:
        typer.echo(f"note: {note}")
    for line in predicted_lines(chosen) if only_looked_at else ():
        typer.echo(line)
    for candidate in refused[:MAX_REFUSED_SHOWN]:
        typer.echo(f"left out: {candidate['refused']['value']} ({candidate['refused']['rule']})")
    if len(refused) > MAX_REFUSED_SHOWN:
        typer.echo(f"left out: {len(refused) - MAX_REFUSED_SHOWN} more; {out} has all")
    typer.echo(f"{len(content['candidates'])} candidates, {len(refused)} refused, {len(chosen)} to measure: {out}")


planning.command("evaluate")(plan_evaluate)
planning.command("explain")(plan_explain)
planning.command("replay")(plan_replay)


@app.command()
def search(
    study: StudyPath,
    measure: Annotated[int, typer.Option(min=1, help="Most runs for each workload.")] = 5,
    short: Annotated[float, typer.Option(min=0.01, max=1, help="Share of a run's steps that each takes.")] = 0.2,
    as_json: AsJson = False,
) -> None:
    """Measure a probed study's candidates in few short runs, each where it can change the answer."""
    from dataclasses import asdict

    from hpc_accel.commands import planned_candidates
    from hpc_accel.front.few_runs import search_all
    from hpc_accel.front.search_lines import lines_of
    from hpc_accel.study.study_file import load_study

    results = Path("results", study.stem)
    planned = planned_candidates(study, results)
    found = search_all(planned, results / "search", measure, short, lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=1))
        return
    objective = load_study(study).objective
    typer.echo("\n".join(line for each in found for line in lines_of(each, objective)))


@app.command()
def script(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A plan, a run, or their directory; or --probe STUDY.")],
    run: Annotated[str | None, typer.Option(help="Of a plan only this run, by its run_id.")] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Write the script that measures the machine.")] = False,
    out: Annotated[Path | None, typer.Option(help="With --probe: where to write the script.")] = None,
) -> None:
    """Write the job script of a run, beside its run.json: the same file runs under sbatch, snakemake and bash."""
    from hpc_accel.commands import write_probe_script, write_scripts

    written = [write_probe_script(path, out)] if probe else write_scripts(path, run)
    typer.echo(f"wrote {written[0]}" if len(written) == 1 else f"wrote {len(written)} scripts below {path}")


@app.command()
def supervise(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where the records go: the run's directory.")],
    launch: Annotated[list[str], typer.Argument(metavar="-- LAUNCHER...", help="What starts the ranks.")],
    allocation: Annotated[
        list[str] | None, typer.Option(help="<nodes>x<ranks per node> of the Slurm job; once for each component.")
    ] = None,
    warn_before_end_s: Annotated[int, typer.Option(help="Seconds to save a checkpoint in.")] = 120,
    max_restarts: Annotated[int, typer.Option(help="How often the job may put itself back into the queue.")] = 0,
    stage: Annotated[
        str | None, typer.Option(metavar="FROM:TO", help="Copy this environment to this directory of every node.")
    ] = None,
    result: Annotated[str, typer.Option(help="Not a run, but a program that leaves this file.")] = "",
    record_failure: Annotated[bool, typer.Option("--record-failure", help="Or that says in it why it failed.")] = False,
) -> None:
    """Start a run's ranks, pass on signals, watch the clock, and record how it ended: the last line of a job script."""
    from hpc_accel.jobs.allocation import Component
    from hpc_accel.jobs.supervise import Settings
    from hpc_accel.jobs.supervise import supervise as attempt

    source, _, target = stage.partition(":") if stage else ("", "", "")
    settings = Settings(
        wanted=tuple(map(Component.parse, allocation or ())),
        warn_before_end_s=warn_before_end_s,
        max_restarts=max_restarts,
        stage=(Path(source), Path(target)) if stage else None,
        result=result,
        record_failure=record_failure,
    )
    raise typer.Exit(attempt(directory, launch, settings))


@app.command()
def pack(
    done: Annotated[Path, typer.Argument(metavar="DONE", help="Written when every run has a summary.")],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of the runs, in their order.")],
) -> None:
    """Let runs take turns in this allocation: the last line of the script that packs them."""
    from hpc_accel.jobs.pack import take_turns

    raise typer.Exit(take_turns(done, runs))


@app.command()
def submit(path: Annotated[Path, typer.Argument(metavar="SCRIPT", help="A job.sbatch or probe.sbatch.")]) -> None:
    """Send a job script to Slurm as it is, wait for the job, and end with its exit code; stopped, cancel it."""
    from hpc_accel.jobs.submit import submit_and_wait

    raise typer.Exit(submit_and_wait(path, lambda job_id: typer.echo(f"job {job_id}")))


@app.command()
def train(path: RunPath) -> None:
    """Train one run and write its record beside run.json. Started on every rank by the job script's mpirun."""
    from hpc_accel.commands import train_run

    summary = train_run(path)
    if summary is not None:
        median = summary.step_time_ms.value
        typer.echo(f"{summary.run_id}: {summary.status}, median step {median:.3f} ms")


@app.command()
def reference(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Files run.json, or a reference's runs.json.")],
    device: Annotated[str, typer.Option(help="What to compute on: cpu, cuda:0 and so on; else as the run says.")] = "",
    out: Annotated[Path | None, typer.Option(help="Where to write what was computed, or why it could not be.")] = None,
) -> None:
    """Compute the serial runs that runs are compared with, if they are not kept already. A run does this by itself."""
    from hpc_accel.commands import compute_references

    typer.echo("\n".join(map(str, compute_references(paths, device, out))))


@app.command()
def infer(path: RunPath) -> None:
    """Serve one run: latency under open-loop load, throughput under a limit. Started on every rank like `train`."""
    from hpc_accel.commands import infer_run

    summary = infer_run(path)
    if summary is not None and summary.inference is not None:
        rate = summary.inference.rates[-1]
        p99 = rate.latency_ms.p99
        told = f"p99 {p99.value:.3f} ms" if p99.value is not None else p99.reason
        typer.echo(f"{summary.run_id}: {summary.status}, at {rate.rate_per_s:g} requests/s {told}")


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="RESULTS", help="A study's results, e.g. results/quickstart.")],
    as_json: AsJson = False,
    openmetrics: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also the table of runs as OpenMetrics text, for Prometheus.")
    ] = None,
    mlflow: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also the runs as an MLflow file store, for `mlflow ui`.")
    ] = None,
) -> None:
    """Write report.html, summary tables, methods.md and answer.txt from what the runs left, and print the answer."""
    from hpc_accel.jobs.accounting import complete_statuses
    from hpc_accel.report.write import write

    complete_statuses(directory)
    answer = write(directory, openmetrics=openmetrics, mlflow=mlflow)
    if as_json:
        typer.echo(json.dumps(answer.to_json(), indent=1))
        return
    typer.echo(answer.text)
    for command in answer.submit:
        typer.echo(f"run it: {command}")


def main() -> None:
    """Entry point: errors for people become value, rule, remedy on standard error and their exit code."""
    usage_error: Any = typer.BadParameter.__base__  # typer keeps the click that it uses to itself
    usage_error.exit_code = UsageError.exit_code
    run_and_leave(_command)


def _command() -> None:
    """The command of this process; its error says at which line of the user's it happened."""
    try:
        app()
    except HpcAccelError as error:
        from hpc_accel.study.sources import users_frame

        error.where = error.where or users_frame(error)
        raise
