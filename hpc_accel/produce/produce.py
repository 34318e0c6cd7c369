"""results/<study>/production/<name>/: the chosen run with its length, its script and its forecast, and its start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpc_accel.errors import CannotCreateError, ConfigError
from hpc_accel.files import read_json, write_atomically
from hpc_accel.jobs import history
from hpc_accel.jobs.run_script import end_with_workflow
from hpc_accel.jobs.site import Site, load_site
from hpc_accel.jobs.submit import STOPPED, submit_and_wait
from hpc_accel.jobs.write import write_run
from hpc_accel.produce import start
from hpc_accel.produce.choose import choose
from hpc_accel.produce.forecast import forecast_of
from hpc_accel.produce.length import length_of
from hpc_accel.record.production import FORECAST, Forecast
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.study.production import Production
from hpc_accel.study.run import Run
from hpc_accel.study.run_file import read_run, write_run_file
from hpc_accel.study.sources import changed
from hpc_accel.study.study_file import ProductionChoice, load_study


@dataclass(frozen=True, kw_only=True)
class Written:
    """A training that can be started."""

    run: Run
    directory: Path
    script: Path
    site: Site
    forecast: Forecast
    num_jobs: int
    """That it is expected to need."""

    @property
    def is_finished(self) -> bool:
        """Whether it has come to its end already."""
        return history.is_finished(self.directory)


def asked_of(results: Path, said: dict[str, Any]) -> ProductionChoice:
    """The section `production` of the study whose results these are, with what the command line says of it.

    A length on the command line replaces that of the study, whatever its unit.
    """
    owner = results / ".study"
    study = Path(owner.read_text().partition("\n")[0]) if owner.is_file() else None
    section = load_study(study).production.model_dump(exclude_none=True) if study and study.is_file() else {}
    given = {key: value for key, value in said.items() if value is not None}
    for alike in (("epochs", "steps", "tokens"), ("run", "objective")):
        if any(key in given for key in alike):
            section = {key: value for key, value in section.items() if key not in alike}
    try:
        return ProductionChoice.model_validate({**section, **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        value = f"{key}: {given.get(key)!r}" if key else ", ".join(f"{name}: {each}" for name, each in given.items())
        raise ConfigError(value, first["msg"], "see hpc-accel produce --help") from None


def prepare(results: Path, asked: ProductionChoice) -> Written:
    """Write what is asked for, unless it is there. Raises ConfigError, DataError, CannotCreateError.

    A training that was begun goes on: its run.json and its forecast stay as they are.
    """
    measured, record = choose(results, run=asked.run, objective=asked.objective, workload=asked.workload)
    if edited := changed(measured.workload.sources):
        raise ConfigError(
            f"{', '.join(edited)} changed since {measured.run_id} was measured",
            "what is trained is the model that was measured",
            "start the workflow again, which measures what changed, or undo the edit",
        )
    run = run_to_its_end(measured, record, asked)
    assert run.production is not None
    site, directory = load_site(run.site), (results / "production" / run.production.name).resolve()
    _refuse_another(directory, run)
    factors = safe_json.mapping(read_json(results / "plan.json"), "factors")
    forecast = forecast_of(record, factors, run.measure.steps)
    jobs = start.num_jobs(forecast.time_s.value, run.resources.time_limit_min)
    script = directory / "job.sbatch"
    if not (directory / "run.json").is_file():
        write_run_file(run, directory)
        write_atomically(directory / FORECAST, forecast.model_dump_json(indent=1) + "\n")
    if not history.is_finished(directory):
        script = write_run(run, directory, site=site)
    return Written(run=run, directory=directory, script=script, site=site, forecast=forecast, num_jobs=jobs)


def run_to_its_end(measured: Run, record: RunRecord, asked: ProductionChoice) -> Run:
    """The measured run, as long as is asked for. Raises ConfigError."""
    steps, metric = record.summary.steps, record.summary.metric
    assert steps is not None  # it counts
    if asked.target_metric is not None or asked.patience is not None:
        _check_metric(record, measured)
    length = length_of(asked, steps, keeps_last=measured.workload.last_batch == "keep")
    every = _multiple(length.evaluate_every, measured.recipe.average_every)
    workload = measured.workload
    if (schedule := workload.optimizer.schedule) is not None:
        schedule = schedule.lengthened(measured.measure.warmup_steps + measured.measure.steps, length.steps)
        optimizer = workload.optimizer.model_copy(update={"schedule": schedule})
        workload = workload.model_copy(update={"optimizer": optimizer})
    content = measured.model_dump(exclude={"run_id", "repeat"})
    content |= {
        "workload": workload.model_dump(),
        "production": Production(
            name=asked.name or measured.workload.name,
            evaluate_every_steps=every,
            target_metric=asked.target_metric,
            patience=asked.patience,
        ),
    }
    content["measure"] |= {"warmup_steps": 0, "steps": length.steps, "max_steps": None, "repeat_disturbed": 0}
    assert metric is not None
    return Run.model_validate(content)


def _check_metric(record: RunRecord, run: Run) -> None:
    metric = record.summary.metric
    if metric.value is None:
        raise ConfigError(
            f"target_metric or patience, and {run.workload.name} has no figure: {metric.reason}",
            "training ends early by the workload's metric on held-out data",
            "give its Workload a Metric and measure.metric_samples above 0, or leave them out",
        )


def _multiple(every: int, of: int) -> int:
    """Replicas that train alone are looked at where they are averaged anyway."""
    return -(-every // of) * of


def _refuse_another(directory: Path, run: Run) -> None:
    """Raise CannotCreateError where something else is in the directory."""
    if not directory.exists() or not any(directory.iterdir()):
        return
    if not (directory / "run.json").is_file():
        raise CannotCreateError(
            f"{directory} is not empty", "a training has a directory of its own", "choose another --name, or remove it"
        )
    there = read_run(directory / "run.json")
    if there.run_id != run.run_id:
        raise CannotCreateError(
            f"{directory} holds {there.run_id}, of {there.measure.steps} steps, and not {run.run_id}, "
            f"of {run.measure.steps}",
            "a training has a directory of its own",
            "choose another --name; or remove the directory, if that training is not wanted",
        )


def begin(written: Written, tell: Callable[[str], None], *, wait: bool) -> int:
    """Start the training: here, or as a chain of jobs where the site has a queue, whose end is waited for with `wait`.

    The exit code.
    """
    end_with_workflow()
    if written.site.scheduler == "none":
        return start.run_here(written.script, tell)
    count = start.num_submitted(written.num_jobs, written.site.max_restarts)
    ids = start.submit_chain(written.script, count - wait)
    tell(f"submits {count} job(s) that run in turn; log: {written.directory}/log.txt")
    for job_id in ids:
        tell(f"job {job_id}")
    if not wait:
        return 0
    code = submit_and_wait(written.script, lambda job_id: tell(f"job {job_id}"))
    if code == STOPPED and ids:
        start.cancel(ids)
    return code
