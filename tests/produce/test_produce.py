"""What `produce` writes for a study's results, and what it refuses before any rank starts."""

import json
import subprocess
import sys

import pytest

from hpc_accel.errors import CannotCreateError, ConfigError, DataError
from hpc_accel.jobs.script import _chained, render
from hpc_accel.jobs.site import Site
from hpc_accel.produce.produce import asked_of, prepare
from hpc_accel.produce.start import num_jobs, num_submitted
from hpc_accel.record.production import read_forecast
from hpc_accel.study.optimizer import Optimizer, Schedule
from hpc_accel.study.run import Run
from hpc_accel.study.run_file import read_run, write_run_file
from tests.report.editing import edit_summary, run_of


def written(results, **said):
    return prepare(results, asked_of(results, {"workload": "mlp", **said}))


def test_the_best_run_with_its_length_and_forecast(energy_study):
    found = written(energy_study, epochs=10)
    measured = run_of(energy_study, "mlp", "serial fp32 x1")
    run = read_run(found.directory / "run.json")
    assert found.directory == energy_study / "production/mlp"
    assert (run.layout, run.recipe, run.resources) == tuple(
        getattr(read_run(measured.directory / "run.json"), key) for key in ("layout", "recipe", "resources")
    )
    steps = measured.summary.steps
    assert run.measure.steps == 10 * int(steps.samples_per_epoch.value / steps.global_batch_size)
    assert run.measure.warmup_steps == 0
    forecast = read_forecast(found.directory)
    assert forecast.measured_run == measured.run_id
    assert forecast.time_s.value == pytest.approx(measured.summary.step_time_ms.value * run.measure.steps / 1e3)
    assert forecast.energy_j.value == pytest.approx(measured.summary.energy.per_step_j.value * run.measure.steps)
    assert forecast.carbon_g.value == pytest.approx(forecast.energy_j.value / 3.6e6 * 380)
    assert forecast.cost.value > 0
    assert "singleton" in found.script.read_text()
    before = found.script.parent.joinpath("forecast.json").stat().st_mtime_ns
    assert written(energy_study, epochs=10).run == run, "what was begun goes on"
    assert found.script.parent.joinpath("forecast.json").stat().st_mtime_ns == before


def test_named_runs_tokens_and_targets(energy_study):
    other = run_of(energy_study, "mlp", "dp2 fp32 x1")
    found = written(energy_study, run=other.run_id, steps=7, name="seven", evaluate_every_steps=100)
    assert (found.run.layout.dp, found.run.measure.steps, found.directory.name) == (2, 7, "seven")
    assert found.run.production.evaluate_every_steps == 7, "at the end at the latest"
    assert other.run_id != found.run.run_id
    metric = {"name": "accuracy", "value": 0.8, "higher_is_better": True, "num_samples": 9}
    edit_summary(energy_study, "mlp", "dp2 fp32 x1", lambda content: content.update(metric=metric))
    target = written(energy_study, run=other.run_id, target_metric=0.9, patience=2, name="target")
    assert target.run.production.target_metric == 0.9
    steps = other.summary.steps
    assert target.run.measure.steps == 100 * int(steps.samples_per_epoch.value / steps.global_batch_size)


def test_a_schedule_ends_with_the_training_unless_it_has_an_end_of_its_own(study):
    measured = run_of(study, "mlp", "serial fp32 x1")
    run = read_run(measured.directory / "run.json")
    total = run.measure.warmup_steps + run.measure.steps
    long = 3 * total  # a warm-up longer than the measurement: its schedule ended a step after it
    cases = [(total, 0, 500), (77, 0, 77), (long + 1, long, 500), (long + 9, long, long + 9)]
    for number, (said, warmup, expected) in enumerate(cases):
        schedule = Schedule(name="cosine", total_steps=said, warmup_steps=warmup)
        workload = run.workload.model_copy(update={"optimizer": Optimizer(name="sgd", schedule=schedule)})
        edited = Run.model_validate(run.model_dump(exclude={"run_id"}) | {"workload": workload})
        write_run_file(edited, measured.directory)
        found = written(study, run=measured.run_id, steps=500, name=f"n{number}")
        assert found.run.workload.optimizer.schedule.total_steps == expected


MISTAKES = {
    "no end": ({}, "a training without an end"),
    "several workloads": ({"workload": None, "steps": 1}, "digits, lm, mlp"),
    "unknown workload": ({"workload": "mpl", "steps": 1}, "workload 'mpl'"),
    "unknown run": ({"run": "mlp-serial", "steps": 1}, "run 'mlp-serial'"),
    "unknown objective": ({"objective": "speed", "steps": 1}, "objective: 'speed'"),
    "two lengths": ({"epochs": 1, "steps": 1}, "epochs and steps all say how long"),
    "a run and an objective": ({"run": "x", "objective": "time", "steps": 1}, "give one of them"),
    "no steps": ({"steps": 0}, "steps: 0"),
    "a name that is a path": ({"steps": 1, "name": "../x"}, "a name has 1 to 64"),
    "no energy": ({"objective": "energy", "steps": 1}, "was not measured"),
    "no price": ({"objective": "cost", "steps": 1}, "has no price"),
    "no tokens": ({"tokens": 1000}, "1000 tokens"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(study, name):
    said, expected = MISTAKES[name]
    with pytest.raises(ConfigError, match="(?s)" + expected.replace(".", r"\.")) as caught:
        written(study, **said)
    assert caught.value.remedy
    assert not (study / "production").exists()


def test_runs_that_do_not_count_are_refused(study):
    spoilt = {"tp2 bf16 x4": "wrong", "dp2.pp2.1f1b bf16 x4": "failed", "pp2.gpipe bf16 x4": "missing"}
    for label, status in spoilt.items():
        run = run_of(study, "digits", label)
        with pytest.raises(ConfigError, match=f"is {status}"):
            written(study, workload=None, run=run.run_id, steps=1)
    for run in ("serial fp32 x1", "dp2 fp32 x1"):
        (run_of(study, "mlp", run).directory / "summary.json").unlink()
    with pytest.raises(ConfigError, match="no run of 2 can be used"):
        written(study, steps=1)


def test_no_metric_no_target(study):
    run = run_of(study, "mlp", "serial fp32 x1").run_id
    with pytest.raises(ConfigError, match="names no metric"):
        written(study, run=run, target_metric=0.5)


def test_a_directory_is_one_trainings(study):
    first = written(study, steps=5)
    with pytest.raises(CannotCreateError, match="of 5 steps, and not"):
        written(study, steps=6)
    (study / "production/odd").mkdir()
    (study / "production/odd/file").touch()
    with pytest.raises(CannotCreateError, match="is not empty"):
        written(study, steps=5, name="odd")
    (first.directory / "summary.json").write_text(json.dumps({"status": "completed", "run_id": first.run.run_id}))
    assert written(study, steps=5).is_finished


def test_edited_sources_are_refused(study):
    measured = run_of(study, "mlp", "serial fp32 x1")
    run = read_run(measured.directory / "run.json")
    workload = run.workload.model_copy(update={"sources": {str(study / "plan.json"): "0" * 16}})
    edited = Run.model_validate(run.model_dump(exclude={"run_id"}) | {"workload": workload})
    write_run_file(edited, measured.directory)
    with pytest.raises(ConfigError, match=r"plan\.json changed"):
        written(study, run=measured.run_id, steps=5)


def test_no_results(tmp_path):
    with pytest.raises(DataError, match=r"plan\.json"):
        written(tmp_path, steps=1)


def test_the_studys_section_and_the_command_line(study, tmp_path):
    path = tmp_path / "demo.yaml"
    path.write_text("workload: {name: mlp}\nproduction: {epochs: 3, patience: 2, workload: mlp}\n")
    (study / ".study").write_text(f"{path}\n")
    asked = asked_of(study, {})
    assert (asked.epochs, asked.patience) == (3, 2)
    asked = asked_of(study, {"steps": 9})
    assert (asked.epochs, asked.steps, asked.patience) == (None, 9, 2)


def test_as_many_jobs_as_the_time_limit_asks_for():
    assert num_jobs(None, 30) == num_jobs(60, 30) == 1
    assert num_jobs(10 * 3600, 60) == 12
    assert num_submitted(1, 0) == num_submitted(1, 5) == 1
    assert num_submitted(12, 0) == 13
    assert num_submitted(12, 5) == 3


def test_a_clusters_script_waits_for_those_before_it(study, tmp_path):
    run = written(study, steps=5).run
    text = render(run, Site(name="c"), root=tmp_path, run_dir=tmp_path, environment=tmp_path)
    assert "#SBATCH --dependency=singleton\n" in text
    assert f"#SBATCH --job-name=hpc-{run.run_id}" in text or run.run_id in text
    assert len(text.splitlines()) < 30


RUN_HERE = """
import sys
from pathlib import Path
from hpc_accel.produce.start import run_here
raise SystemExit(run_here(Path(sys.argv[1]), print))
"""


@pytest.mark.parametrize(("begins", "starts", "code"), [(False, 1, 75), (True, 3, 0)])
def test_a_script_that_begins_no_attempt_is_not_started_again(tmp_path, begins, starts, code):
    """Another process is at the training: asked without end, it would refuse without end."""
    script = tmp_path / "job.sbatch"
    line = f"""echo '{{"event": "begin", "unix_s": 1}}' >> {tmp_path}/attempts.jsonl\n""" if begins else ""
    count = f"echo started >> {tmp_path}/starts\n"
    script.write_text(f"{line}{count}[ $(wc -l < {tmp_path}/starts) -ge 3 ] || exit 75\n")
    done = subprocess.run([sys.executable, "-c", RUN_HERE, script], capture_output=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "starts").read_text().count("started") == starts


def test_a_chain_keeps_the_dependency_that_the_study_asks_for():
    assert _chained(None) == "singleton"
    assert _chained("afterok:7") == "afterok:7,singleton"
    with pytest.raises(ConfigError, match=r"afterok:7\?afterok:8"):
        _chained("afterok:7?afterok:8")
