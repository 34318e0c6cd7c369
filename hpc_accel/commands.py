"""What commands do that needs more than one room: the rooms themselves do not know each other."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc_accel.errors import ConfigError, UsageError
from hpc_accel.files import write_atomically

if TYPE_CHECKING:
    from hpc_accel.jobs.site import Site
    from hpc_accel.plan.spend import Expected
    from hpc_accel.record import Summary
    from hpc_accel.study.run import Resources, Run
    from hpc_accel.study.study_file import Study

MIN_PROGRESS_S = 5.0
"""Without a terminal, one plain line of progress at most this often."""


def probe_machine(study_path: Path, out: Path) -> bool:
    """Measure what a study may use and write hardware.json, then calibration.json; whether this rank wrote them."""
    from hpc_accel.probe.probe import run as run_probe
    from hpc_accel.study.node_kinds import node_kinds_of
    from hpc_accel.study.study_file import load_study

    study = load_study(study_path)
    limits = study.resources
    hardware = run_probe(
        out,
        site=study.site,
        cpus_per_rank=limits.cpus_per_rank,
        node_kinds=node_kinds_of(limits) if limits.node_kinds is not None else None,
        device=study.device,
        gpus_per_node=limits.gpus_per_node,
        backend=study.backend,
    )
    if study.calibrate and study.train and limits.node_kinds is None:
        from hpc_accel.calibrate.run import calibrate

        calibrate(study, out, PlainProgress("calibration: measurement") if hardware else lambda done, total: None)
    return bool(hardware)


def plan_study(study_path: Path, machine: Path | str, out: Path) -> dict[str, Any]:
    """Plan a study, write plan.json with every chosen run in it, and give its content.

    `machine` is a hardware.json, or the name of one that the package ships.
    """
    from hpc_accel.jobs.failure_rate import with_failure_rate_of
    from hpc_accel.jobs.memory_option import with_memory_of
    from hpc_accel.jobs.request import plugin_resources
    from hpc_accel.jobs.site import load_site
    from hpc_accel.plan.calibration import load_calibrations, subject_of
    from hpc_accel.plan.planner import make_plan
    from hpc_accel.plan.prediction import Prices
    from hpc_accel.plan.shipped import hardware_of, hardware_path
    from hpc_accel.study.expand import resolve_workloads
    from hpc_accel.study.references import planned_references
    from hpc_accel.study.results import owner_file
    from hpc_accel.study.sources import digest
    from hpc_accel.study.study_file import load_study

    study = load_study(study_path)
    site = load_site(study.site)
    study = with_failure_rate_of(with_memory_of(study, site), site)
    workloads = resolve_workloads(study)
    path = hardware_path(str(machine))
    hardware = hardware_of(str(machine))
    elsewhere = hardware.site != study.site
    if elsewhere and path.resolve().parent == out.resolve().parent:
        raise ConfigError(
            f"{machine} of site {hardware.site!r} for a study at site {study.site!r}",
            "a plan is made with what the probe measured at the study's own site",
            f"delete it and start the workflow again, or set site: {hardware.site} in {study_path}",
        )
    owner = owner_file(out.parent, study_path)

    from hpc_accel.workloads.facts_without_weights import facts_of

    facts = {workload.name: facts_of(workload, study.seed) for workload in workloads}

    def prices(resources: Resources) -> Prices | None:
        price = site.mean_per_node("price_per_node_hour", resources.nodes_by_partition)
        return Prices(per_node_hour=price, unit=site.currency) if price else None

    measured = load_calibrations(path.parent / "calibration.json", path.read_bytes())
    subjects = {each.name: subject_of(each, facts[each.name], study, hardware) for each in workloads}
    calibrations, uncalibrated = measured.holding(subjects, path) if measured is not None else ({}, [])
    plan = make_plan(study, hardware, facts, prices=prices, calibrations=calibrations)
    runs = {run.run_id: run for run in plan.chosen_runs()}
    priced = any(prices(run.resources) for run in runs.values())
    content = {**plan.to_json(), "cost_unit": site.currency if priced else None}
    alike = study.resources.node_kinds is None  # else which nodes a run takes differs from run to run
    content["factors"] = _factors(study, site, alike)
    for candidate in content["candidates"]:
        if candidate["chosen"]:
            run = runs[candidate["run_id"]]
            plugin_resources(run, site)  # what cannot be asked for is refused now
            candidate["run"] = run.model_dump(mode="json")
            if not alike:
                for key in ("price_per_node_hour", "power_w_per_node"):
                    candidate[key] = site.mean_per_node(key, run.resources.nodes_by_partition)
    content["notes"] += uncalibrated
    if elsewhere:
        note = f"{machine} is of site {hardware.site!r}: times and memory are predicted for that machine"
        content["notes"] = [note, *content["notes"]]
    content["references"] = planned_references(runs.values())
    content["pack"] = _pack(list(runs.values()), site) if study.same_allocation and runs else None
    write_atomically(owner, f"{study_path.resolve()}\n{digest(study_path)}\n")
    write_atomically(out, json.dumps(content, indent=1) + "\n")
    return content


def planned_candidates(study_path: Path, results: Path) -> dict[str, list[Expected]]:
    """By workload, the candidates of a study's plan that may run, each with its predicted milliseconds.

    Where the plan withholds a time because a calibration was disturbed, the model's own is taken, and said to be wide.
    """
    from hpc_accel.plan.explain.find import model_for, planned_run
    from hpc_accel.plan.spend import WIDE, Expected
    from hpc_accel.study.expand import resolve_workloads
    from hpc_accel.study.study_file import load_study
    from hpc_accel.workloads.facts_without_weights import facts_of

    content = plan_study(study_path, results / "hardware.json", results / "search" / "plan.json")
    study = load_study(study_path)
    facts = {workload.name: facts_of(workload, study.seed) for workload in resolve_workloads(study)}
    path = results / "hardware.json"
    found: dict[str, list[Expected]] = {}
    for candidate in content["candidates"]:
        # Repeats are measurements of one configuration: it is one candidate.
        if candidate["refused"] is None and not candidate.get("infer") and candidate["repeat"] == 1:
            run = planned_run(study, candidate, facts[candidate["workload"]])
            predicted: dict[str, Any] = candidate["prediction"] or {}
            time_ms, wide = predicted.get("step_time_ms"), False
            if time_ms is None:
                model = model_for(study, run, facts[candidate["workload"]], path, str(path))
                wide = model.unpredictable(run.layout, run.resources, run.device) is None
                time_ms = 1e3 * sum(model.parts_s(run.layout, run.resources).values()) if wide else None
            one = Expected(run=run, time_ms=time_ms, error=WIDE if wide else None)
            found.setdefault(candidate["workload"], []).append(one)
    return found


def predicted_lines(candidates: list[dict[str, Any]]) -> list[str]:
    """What is predicted of each chosen run of a plan, a line for each, the fastest first."""

    def time_ms(candidate: dict[str, Any]) -> float:
        return (candidate["prediction"] or {}).get("step_time_ms") or float("inf")

    lines = []
    for each in sorted(candidates, key=time_ms):
        prediction = each["prediction"] or {}
        told = f"{time_ms(each):.4g} ms" if prediction.get("step_time_ms") else prediction.get("step_time_reason", "")
        memory = f", {prediction['peak_memory_bytes'] / 1e9:.1f} GB per rank" if prediction else ""
        lines.append(f"{each['run_id'].rpartition('-')[0]}: {told}{memory}")
    return lines


def write_runs(plan: dict[str, Any], directory: Path) -> None:
    """run.json of every chosen run of a plan; the workflow writes each beside its script instead."""
    from hpc_accel.study.run import Run
    from hpc_accel.study.run_file import write_run_file

    for candidate in plan["candidates"]:
        if candidate["chosen"]:
            write_run_file(Run.model_validate(candidate["run"]), directory / "runs" / candidate["run_id"])


def _factors(study: Study, site: Site, alike: bool) -> dict[str, Any]:
    """What the report multiplies with: the site's prices, and what a node draws where all are `alike`."""
    whole = site.partition_of(study.resources.partition)
    return {
        "currency": site.currency,
        "price_per_node_hour": whole.price_per_node_hour if alike else None,
        "carbon_g_per_kwh": site.carbon_g_per_kwh,
        "electricity_price_per_kwh": site.electricity_price_per_kwh,
        "power_w_per_node": whole.power_w_per_node if alike else None,
        "estimate": study.energy.estimate,
    }


def _pack(runs: list[Run], site: Site) -> dict[str, Any]:
    """The one job in which all runs take turns, by its name. Raises ConfigError for runs that cannot."""
    from hpc_accel.jobs import frequency_options
    from hpc_accel.jobs.request import pack_resources, plugin_request
    from hpc_accel.jobs.script import pack_name

    plugin_request(pack_resources(runs, site), site, frequency_options.common(runs))
    return {"run_id": pack_name(runs), "runs": [run.run_id for run in runs]}


def write_scripts(path: Path, run_id: str | None) -> list[Path]:
    """job.sbatch of one run.json, of all below a directory, or of what a plan.json chose; there also run.json."""
    from hpc_accel.jobs import write
    from hpc_accel.study.run_file import read_run

    if path.name == "plan.json":
        return write.write_planned(path, run_id)
    if run_id is not None:
        raise UsageError(f"--run {run_id} for {path}", "--run names one of a plan's runs", "give a plan.json")
    if path.is_dir():
        return write.write_runs_below(path)
    return [write.write_run(read_run(path), path.parent)]


def write_probe_script(study_path: Path, out: Path | None) -> Path:
    """probe.sbatch of a study, in its results directory unless `out` says otherwise."""
    from hpc_accel.jobs.write import write_probe
    from hpc_accel.study.study_file import load_study

    return write_probe(load_study(study_path), study_path, out)


def train_run(path: Path) -> Summary | None:
    """Train on this rank; rank 0 shows a progress bar on a terminal, plain lines otherwise."""
    from hpc_accel.train.main import run_training

    return _shown(path, run_training, "training", "step")


def compute_references(paths: list[Path], device: str, out: Path | None) -> list[Path]:
    """The files of the references of runs, computed where they are missing; `out` says what that took."""
    from hpc_accel.train.parity.job import compute_all

    return compute_all([path.resolve() for path in paths], device, out)


def infer_run(path: Path) -> Summary | None:
    """Serve on this rank; rank 0 shows progress as in training."""
    from hpc_accel.infer.main import run_inference

    return _shown(path, run_inference, "serving", "part")


def _shown(path: Path, work: Callable[..., Summary | None], doing: str, unit: str) -> Summary | None:
    rank_variables = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
    rank = next((os.environ[name] for name in rank_variables if name in os.environ), "0")
    if rank != "0":
        return work(path)
    _check_sources(path)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        return work(path, PlainProgress(unit))
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(doing, total=None)
        return work(path, lambda done, total: bar.update(task, completed=done, total=total))


def _check_sources(path: Path) -> None:
    """Raises ConfigError where a file that the run was planned with is another now: its figures would be another's."""
    from hpc_accel.study.run_file import read_run
    from hpc_accel.study.sources import changed

    if edited := changed(read_run(path).workload.sources):
        raise ConfigError(
            f"{', '.join(edited)} changed since {path} was planned",
            "a run measures the model and the data that it was planned with",
            "start the workflow again, which plans and measures anew, or undo the edit",
        )


class PlainProgress:
    """Progress as lines for a log file: the first step, then one line every few seconds, and the last."""

    def __init__(self, unit: str = "step") -> None:
        self.unit = unit
        self.last_s = float("-inf")

    def __call__(self, done: int, total: int) -> None:
        """Say how far the run is, if it is time to."""
        import time

        now = time.monotonic()
        if done == total or now - self.last_s >= MIN_PROGRESS_S:
            self.last_s = now
            sys.stderr.write(f"{self.unit} {done} of {total}\n")
            sys.stderr.flush()
