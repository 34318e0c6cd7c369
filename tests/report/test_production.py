"""The page's section on trainings to their end: curve, goodput, and the forecast beside what came of it."""

from __future__ import annotations

import io
import json

import polars as pl
import pytest

from hpc_accel import record
from hpc_accel.files import write_atomically
from hpc_accel.produce.produce import asked_of, prepare
from hpc_accel.record.figure import Count, Estimate, Fraction, Grams, OwnUnit, Seconds
from hpc_accel.record.production import LostTime, Production, read_forecast
from hpc_accel.report.load.study_records import load
from hpc_accel.report.load.trainings import trainings_of
from hpc_accel.report.show import production_tables
from hpc_accel.report.write import write
from tests.record.make_golden import golden

METRICS = [
    {"step": 50, "loss": 1.0, "evaluation_s": 0.1, "held_out_accuracy": 0.5},
    {"step": 100, "loss": 0.5, "evaluation_s": 0.1, "held_out_accuracy": 0.9},
]
LOST = LostTime(start_s=10, restarts_s=20, redone_s=5, evaluation_s=2, checkpoints_s=1, weights_s=0.5, other_s=1.5)


@pytest.fixture
def begun(energy_study):
    """A training of 100 steps that was evaluated twice, and has not ended."""
    written = prepare(energy_study, asked_of(energy_study, {"workload": "mlp", "steps": 100}))
    table = io.BytesIO()
    pl.DataFrame(METRICS).write_parquet(table)
    write_atomically(written.directory / "metrics.parquet", table.getvalue())
    return energy_study, written


def end(written):
    """Its record, twice as slow as was measured."""
    forecast = read_forecast(written.directory)
    expected_ms = forecast.step_time_ms.value
    made = Production(
        name="mlp",
        ending="all steps",
        num_steps=100,
        num_evaluations=2,
        best_step=Count.of(100),
        best_value=OwnUnit.of(0.9),
        weights={"last": "weights/last", "best": "weights/best"},
        num_attempts=3,
        allocated_s=100,
        training_s=60,
        goodput=Fraction.of(0.6),
        losses=LOST,
        queue_s=Seconds.of(77.0),
        cost=OwnUnit.of(2 * forecast.cost.value),
        carbon_g=Grams.missing("no sensor <here>"),
        forecast=forecast,
        slow=("steps 0 to 50 took long",),
    )
    found = golden("train").changed(
        run_id=written.run.run_id,
        step_time_ms=Estimate.between(2 * expected_ms, expected_ms, 3 * expected_ms, method="median"),
        warnings=("1 period(s) slower than measured; the last: <b>rank 1 on node07</b>",),
        production=made,
    )
    record.write(written.directory / "summary.json", found)


def test_a_study_without_one_has_no_section(energy_study):
    write(energy_study)
    assert load(energy_study).trainings == ()
    assert "Trained to the end" not in (energy_study / "report.html").read_text()


def test_one_under_way_shows_how_far_it_is(begun):
    study, _ = begun
    [training] = trainings_of(study)
    assert training.metric == "held_out_accuracy"
    assert production_tables.told(training) == "Step 100 of 100 was evaluated last."
    assert production_tables.forecast_rows(training) == []
    [section], specs = production_tables.sections((training,))
    curve, goodput = (chart["figure"] for chart in section["charts"])
    assert [trace["y"] for trace in curve.spec["data"]] == [[1.0, 0.5], [0.5, 0.9]]
    assert goodput.gap
    assert list(specs) == ["production-0-curve"]


def test_one_that_has_ended(begun):
    study, written = begun
    end(written)
    write(study)
    page = (study / "report.html").read_text()
    assert "Trained to the end" in page
    assert "no sensor &lt;here&gt;" in page and "<b>rank 1" not in page
    [training] = load(study).trainings
    rows = {
        what: (expected, found, difference)
        for what, expected, found, difference in production_tables.forecast_rows(training)
    }
    assert rows["ms per step, as measured"][2] == "+100 %"
    assert rows["cost, EUR"][2] == "+100 %"
    assert rows["waiting in the queue and between attempts, s"][1] == "77.0"
    bar = production_tables.sections((training,))[0][0]["charts"][1]["figure"]
    assert sum(trace["x"][0] for trace in bar.spec["data"]) == 100, "goodput and losses are all of the allocated time"
    assert bar.spec["data"][0]["hovertext"] == ["training: 60.0 s, 60 %"]


@pytest.mark.parametrize("name", ["run.json", "summary.json", "forecast.json", "metrics.parquet"])
def test_broken_files_do_not_stop_the_report(begun, name):
    study, written = begun
    end(written)
    for content in (b"", b"\0garbage", json.dumps({"step": 1}).encode()):
        (written.directory / name).write_bytes(content)
        write(study)
