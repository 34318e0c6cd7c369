"""What needs no training: periods that are slow, where time went, files of metrics, the model inside of a workload."""

import importlib.util
import json
from types import SimpleNamespace

import polars as pl
import pytest
from torch import nn

from hpc_accel.jobs import history
from hpc_accel.record.figure import Estimate, Grams, Joules, Milliseconds, OwnUnit, Seconds
from hpc_accel.record.production import Factors, Forecast
from hpc_accel.runtime.batches import ShareSampler
from hpc_accel.train.production.evaluations import Evaluations
from hpc_accel.train.production.goodput import attempts_of, queue_s, redone_s
from hpc_accel.train.production.hugging_face import pretrained_in
from hpc_accel.train.production.metric_files import MetricFiles
from hpc_accel.train.production.slow_periods import slow_period
from hpc_accel.train.rows import Rows

KEPT = [
    {
        "step": n,
        "rank": 1,
        "warmup": n < 2,
        "step_ns": 2**52 + n,
        "comm_exposed_ns": None,
        "loss": None if n % 2 else n / 3,
    }
    for n in range(40)
]


def test_rows_by_column_are_the_rows():
    kept = Rows(KEPT)
    assert list(kept) == KEPT
    assert kept[-3:] == KEPT[-3:]
    assert kept[7] == KEPT[7]
    assert json.dumps(kept[:]) == json.dumps(KEPT)
    expected = pl.DataFrame(KEPT, schema_overrides={"comm_exposed_ns": pl.Int64})
    assert kept.frame().equals(expected)
    with pytest.raises(IndexError):
        kept[40]


class Two:
    """Rank 0 of two, where rank 1 computes longer."""

    def __init__(self, other_ms):
        self.other_ms = other_ms

    def Get_rank(self):
        return 0

    def Get_size(self):
        return 2

    def bcast(self, value, root=0):
        return "node07" if root == 1 else value

    def allreduce(self, value, op=None):
        return max(value, (self.other_ms, 1)) if isinstance(value, tuple) else value + self.other_ms


def forecast(low, value, high):
    return Forecast(
        measured_run="m",
        num_steps=9,
        num_nodes=1,
        step_time_ms=Estimate.between(value, low, high, method="median"),
        planned_step_time_ms=Milliseconds.missing("none"),
        time_s=Seconds.of(1.0),
        energy_j=Joules.missing("no sensor"),
        cost=OwnUnit.missing("no price"),
        carbon_g=Grams.missing("no sensor"),
        factors=Factors(),
    )


def test_a_period_slower_than_measured_names_rank_and_host(capsys):
    measured = forecast(9.0, 9.5, 10.0)
    told = slow_period(Two(15.0), [19.0, 20.0, 21.0, 20.0], 8.0, 100, 104, measured)
    assert "steps 100 to 104 took 20 ms" in told
    assert "rank 1 on node07 computed longest, 15 ms, the others 8 ms" in told
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("step_ms", "expected"),
    [
        ([9.0, 9.4, 9.9, 9.5], forecast(9.0, 9.5, 10.0)),  # as fast
        ([9.8, 10.5, 11.0, 10.2], forecast(9.0, 9.5, 10.0)),  # its own interval reaches into the other
        ([20.0, 20.0], forecast(9.0, 9.5, 10.0)),  # too few to tell
        ([20.0] * 9, None),
        ([20.0] * 9, forecast(None, 9.5, None)),
    ],
)
def test_nothing_is_told_where_intervals_do_not_say_so(step_ms, expected):
    assert slow_period(Two(15.0), step_ms, 8.0, 0, 9, expected) == ""


EVENTS = [
    ("begin", 100, {"submitted_unix_s": 40}),
    ("steps", 110, {"step": 0}),
    ("saved", 150, {"step": 20}),
    ("evaluated", 170, {"step": 30}),  # killed afterwards, which nobody could note
    ("begin", 200, {}),
    ("end", 205, {}),  # did not get to its first step
    ("begin", 230, {}),
    ("steps", 240, {"step": 20}),
]


def test_time_of_attempts(tmp_path):
    assert not history.is_kept(tmp_path)
    for event, unix_s, facts in EVENTS:
        history.note(tmp_path, event, unix_s=unix_s, **facts)
    with (tmp_path / history.FILE).open("a") as file:
        file.write('{"event": "sav')
    found = attempts_of(history.read(tmp_path), now=300)
    assert [(each.begin, each.end) for each in found] == [(100, 170), (200, 205), (230, 300)]
    assert [each.start_s for each in found] == [10, 5, 10]
    assert redone_s(found) == 20, "from the checkpoint to the last that is known"
    assert queue_s(found).value == 60 + 30 + 25
    assert queue_s([]).reason


def test_progress_that_no_checkpoint_kept_is_lost():
    events = [{"event": name, "unix_s": at, "step": 0} for name, at in (("begin", 0), ("steps", 10), ("end", 50))]
    assert (
        redone_s(
            attempts_of([*events, {"event": "begin", "unix_s": 60}, {"event": "steps", "unix_s": 70, "step": 0}], 90)
        )
        == 40
    )


ROWS = [
    {"step": 10 * n, "loss": 1 / n, "evaluation_s": 0.1, "value": 0.1 * n, "also": {"held_out_f1": None}}
    for n in (1, 2)
]


def test_metric_files(tmp_path):
    files = MetricFiles(tmp_path, first_step=0)
    files.write(ROWS[:1], "loss")
    files.write(ROWS, "loss")
    files.close()
    frame = pl.read_parquet(tmp_path / "metrics.parquet")
    assert frame["loss"].to_list() == [1.0, 0.5], "a metric of that name has a column of its own"
    assert frame["held_out_loss"].to_list() == [0.1, 0.2]
    assert pl.read_csv(tmp_path / "metrics.csv").columns == frame.columns
    assert (tmp_path / "tensorboard").exists() == (importlib.util.find_spec("tensorboard") is not None)


def test_events_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard (make extras)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first_step in (0, 15):  # the second attempt goes on from step 15, after the first had come to 20
        files = MetricFiles(tmp_path, first_step)
        for count in range(1 if first_step == 0 else 2, 3):
            files.write(ROWS[:count], "accuracy")
        files.close()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, round(event.value, 3)) for event in found.Scalars("held_out_accuracy")] == [
        (10, 0.1),
        (20, 0.2),
    ]


class PreTrainedModel(nn.Module):
    """Named as that of transformers is."""

    def __init__(self):
        super().__init__()
        self.layer, self.config = nn.Linear(2, 2), type("Config", (), {})()


def test_the_model_of_transformers_inside_of_a_workloads():
    class Mine(PreTrainedModel):
        pass

    found = pretrained_in(nn.ModuleDict({"model": Mine()}))
    assert found.prefix == "model."
    assert found.config.architectures == ["Mine"]
    assert pretrained_in(Mine()).prefix == ""
    assert pretrained_in(nn.Sequential(Mine(), nn.Linear(2, 2))) is None, "it is a part of the model"
    assert pretrained_in(nn.Linear(2, 2)) is None


def test_a_training_is_finished_where_its_own_record_says_so(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"run_id": "a", "production": {"name": "x"}}))
    assert history.is_kept(tmp_path)
    for status, run_id, expected in (("completed", "a", True), ("completed", "b", False), ("preempted", "a", False)):
        (tmp_path / "summary.json").write_text(json.dumps({"status": status, "run_id": run_id}))
        assert history.is_finished(tmp_path) is expected


@pytest.mark.parametrize(
    ("keep_last", "steps", "samples", "epochs"), [(True, 276, 17244, 12.0), (False, 264, 16896, 12.0)]
)
def test_samples_of_an_epochs_short_last_batch_are_those_it_has(keep_last, steps, samples, epochs):
    sampler = ShareSampler(1437, 64, start=0, share=32, seed=0, keep_last=keep_last)
    session = SimpleNamespace(
        stepper=SimpleNamespace(sampler=sampler),
        run=SimpleNamespace(workload=SimpleNamespace(global_batch_size=64)),
        workload=SimpleNamespace(dataset=range(1437)),
    )
    assert Evaluations._seen(SimpleNamespace(_session=session), steps) == (samples, epochs)
    seen, epoch = Evaluations._seen(SimpleNamespace(_session=session), steps + 1)
    assert seen == samples + 64
    assert epochs < epoch < epochs + 0.1
