"""A training that is warned, stopped and killed ends with the curve and the weights of one that nothing disturbed."""

import os
import signal

import polars as pl
import pytest
from safetensors.torch import load_file

from hpc_accel.jobs import history
from hpc_accel.jobs.write import write_runs_below
from hpc_accel.study.run_file import read_run
from tests.faults.started import start
from tests.records import summary_in
from tests.train.production.made import file_of, made

STEPS = 700
FACTS = ["step", "epoch", "samples", "loss", "learning_rate", "held_out_accuracy"]
"""Of a row of metrics.csv, what does not depend on the clock."""


def prepared(directory):
    measure = {"steps": STEPS, "metric_samples": 297}
    checkpoint = {"every_steps": 20}
    schedule = {"name": "cosine", "warmup_steps": 20}
    optimizer = {"name": "adamw", "learning_rate": 0.002, "clip_grad_norm": 1.0, "schedule": schedule}
    workload = {"name": "digits", "optimizer": optimizer}
    [path] = made(directory, workload, [{"dp": 2}], every=50, measure=measure, checkpoint=checkpoint)
    write_runs_below(path.parent)
    return path.parent


def saved(directory):
    return max((event["step"] for event in history.read(directory) if event["event"] == "saved"), default=0)


def curve(directory):
    steps = pl.read_parquet(directory / "steps.parquet").select("step", "rank", "loss", "learning_rate", "grad_norm")
    return steps.sort("step", "rank").rows(), pl.read_csv(directory / "metrics.csv").select(FACTS).rows()


@pytest.mark.mpi
@pytest.mark.timeout(400)
def test_warned_preempted_and_killed(tmp_path):
    whole, broken = prepared(tmp_path / "whole"), prepared(tmp_path / "broken")
    assert start(whole).wait(120) == 0
    assert start(broken, "usr1@1:50").wait(120) == 75, "the warning before the time limit"
    assert saved(broken) >= 50
    preempted = start(broken)
    preempted.until(90, lambda: saved(broken) >= 120)
    preempted.process.send_signal(signal.SIGTERM)
    assert preempted.wait(60) != 0
    assert start(broken, "kill@1:650").wait(120) == 128 + signal.SIGKILL
    last = start(broken)
    assert last.wait(120) == 0, last.log()
    assert curve(broken) == curve(whole)
    for name in ("last", "best"):
        one, other = (load_file(file_of(each, name)) for each in (whole, broken))
        assert all(one[key].equal(other[key]) for key in one)
    schedule = read_run(broken / "run.json").workload.optimizer.schedule
    assert schedule.total_steps == STEPS
    rates = pl.read_csv(broken / "metrics.csv")["learning_rate"]
    assert rates[-1] < rates[0] / 100, "the schedule ends with the training"
    check_where_the_time_went(broken)


def check_where_the_time_went(directory):
    found = summary_in(directory).production
    assert found.num_attempts == 4
    assert found.num_steps == STEPS
    losses = found.losses
    assert min(losses.start_s, losses.restarts_s, losses.redone_s, losses.checkpoints_s, losses.evaluation_s) > 0
    assert losses.restarts_s > losses.start_s, "three of them"
    lost = sum(dict(losses).values())
    assert found.training_s + lost == pytest.approx(found.allocated_s, rel=0.02)
    assert found.goodput.value == pytest.approx(found.training_s / found.allocated_s)
    assert found.queue_s.value > 0, "between the attempts"


@pytest.mark.mpi
@pytest.mark.timeout(120)
def test_a_finished_training_is_not_started_again(tmp_path):
    [path] = made(tmp_path, {"name": "digits"}, [{"dp": 1}], target_metric=0.5, measure={"steps": 4000})
    write_runs_below(path.parent)
    first = start(path.parent)
    assert first.wait(60) == 0, first.log()
    found = summary_in(path.parent).production
    assert found.ending == "target reached"
    assert found.num_steps < 4000
    assert found.best_value.value >= 0.5
    before = {each: each.stat().st_mtime_ns for each in path.parent.rglob("*") if each.name != "told.txt"}
    again = start(path.parent)
    assert again.wait(20) == 0
    assert "come to its end already" in again.log()
    assert before == {each: each.stat().st_mtime_ns for each in path.parent.rglob("*") if each.name != "told.txt"}


@pytest.mark.mpi
@pytest.mark.timeout(120)
def test_a_training_ends_when_it_is_no_better(tmp_path):
    slow = {"name": "digits", "optimizer": {"name": "sgd", "learning_rate": 1e-9}}
    [path] = made(tmp_path, slow, [{"dp": 1}], patience=3, measure={"steps": 4000})
    write_runs_below(path.parent)
    assert start(path.parent).wait(60) == 0
    found = summary_in(path.parent).production
    assert (found.ending, found.num_evaluations, found.num_steps) == ("no better", 4, 16)
    assert os.listdir(path.parent / "weights")
