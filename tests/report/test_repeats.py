"""Repeats of a configuration are one row: joules added, intervals over all, failures said, wrong ones never counted."""

from __future__ import annotations

import polars as pl
import pytest

from hpc_accel.report.judge import ranking
from hpc_accel.report.load.study_records import load
from hpc_accel.report.write import write
from hpc_accel.study.run import Run
from tests.report.editing import ERROR, edit, no_energy
from tests.report.make_study import candidate, losses, make_run, write_json, write_run
from tests.report.make_study import summary as make_summary


def steps(step_ms: float, count: int = 30) -> pl.DataFrame:
    """Timed steps a little apart from each other, after two slow ones that do not count."""
    rows = [{"step": 0, "rank": 0, "warmup": True, "step_ns": 10**12, "loss": 1.0}]
    rows += [
        {"step": 1 + n, "rank": 0, "warmup": False, "step_ns": int((step_ms + n % 3 / 10) * 1e6), "loss": 1.0}
        for n in range(count)
    ]
    return pl.DataFrame(rows)


@pytest.fixture
def repeated(tmp_path):
    """mlp: serial and dp2, three times each; dp2 is 20, 22 and 24 ms, serial always 21."""
    import random

    rng, candidates = random.Random(3), []
    for number, (slow, fast) in enumerate([(21.0, 20.0), (21.0, 22.0), (21.0, 24.0)], start=1):
        for fields, step_ms in (({"accumulation_steps": 1}, slow), ({"dp": 2, "accumulation_steps": 1}, fast)):
            first = make_run("mlp", fields, study="demo")
            run = Run.model_validate({**first.model_dump(exclude={"run_id"}), "repeat": number})
            candidates.append({**candidate(run, 20.0, cost=0.1), "repeat": number})
            write_run(tmp_path / "demo", run, make_summary(run, step_ms, rng, "node"), step_ms)
            steps(step_ms).write_parquet(tmp_path / "demo/runs" / run.run_id / "steps.parquet")
    write_json(tmp_path / "demo/plan.json", {"study": "demo", "site": "local", "candidates": candidates})
    return tmp_path / "demo"


def pooled(study, label: str = "dp2 fp32 x1"):
    return next(run for run in load(study).runs if run.label == label)


def test_a_configuration_is_one_row_over_all_its_repeats(repeated):
    records = load(repeated)
    assert [run.label for run in records.runs] == ["serial fp32 x1", "dp2 fp32 x1"]
    assert len(records.measurements) == 6
    assert write(repeated).num_runs == 2
    time = ranking.step_time_ms(pooled(repeated))
    assert time.value == pytest.approx(22.1, abs=0.05)
    # What differs between repeats is in the interval, though every single one is sure to 0.1 ms.
    assert time.low < 20.5
    assert time.high > 23.9
    same = ranking.step_time_ms(pooled(repeated, "serial fp32 x1"))
    assert same.high - same.low < 0.3


def test_layouts_whose_repeats_mix_are_not_called_different(repeated):
    best = ranking.fastest(load(repeated).runs)
    assert (best.run.label, [tie.label for tie in best.ties]) == ("serial fp32 x1", ["dp2 fp32 x1"])


def test_joules_and_steps_are_added(repeated):
    run = pooled(repeated)
    parts = [each.summary.energy for each in run.repeats]
    assert run.summary.energy.energy_j == pytest.approx(sum(part.energy_j for part in parts))
    assert run.summary.steps.num_timed == 90
    per_sample = [part.per_sample_j.value for part in parts]
    assert ranking.energy_per_sample_j(run) == pytest.approx(sum(per_sample) / 3)
    compute = sum(part.phases.by_phase_j["compute"] for part in parts)
    assert run.summary.energy.phases.by_phase_j["compute"] == pytest.approx(compute)
    [best] = ranking.least_energy([run]).values()
    assert (best.value.low, best.value.high) == pytest.approx((min(per_sample), max(per_sample)), rel=0.2)
    assert best.value.low <= min(per_sample)
    assert best.value.high >= max(per_sample)


def change_repeat(study, number: int, change) -> None:
    [path] = study.glob(f"runs/mlp-dp2-*-r{number}-*/summary.json")
    edit(path, change)


def test_a_repeat_without_energy_leaves_none(repeated):
    change_repeat(repeated, 2, no_energy("counter reset"))
    energy = pooled(repeated).summary.energy
    assert energy.energy_j is None
    assert energy.reason == "1 of 3 repeats: counter reset"


def test_a_failed_repeat_is_said_and_a_wrong_one_makes_all_wrong(repeated):
    change_repeat(repeated, 2, lambda s: s.update(status="failed", error=ERROR))
    run = pooled(repeated)
    assert run.counts
    assert run.summary.steps.num_timed == 60
    assert "2 of 3 repeats count: repeat 2 is failed" in run.problems
    write(repeated)
    assert "2 of 3 repeats count" in (repeated / "report.html").read_text()
    change_repeat(repeated, 3, lambda s: s["parity"].update(passed=False, reason="losses differ"))
    assert pooled(repeated).status == "wrong"


def test_without_readable_steps_there_is_no_interval_and_so_no_difference(repeated):
    for path in repeated.glob("runs/mlp-dp2-*/steps.parquet"):
        path.write_bytes(b"")
    time = ranking.step_time_ms(pooled(repeated))
    assert (time.value, time.is_known) == (22.0, False)
    assert ranking.fastest(load(repeated).runs).ties


def test_a_run_without_an_interval_is_not_called_slower(study):
    runs = [run for run in load(study).of("mlp") if run.counts]
    assert not ranking.fastest(runs).ties
    for run in runs:
        edit(run.directory / "summary.json", lambda s: s["step_time_ms"].update(ci_low=None))
    assert ranking.fastest(load(study).of("mlp")).ties


def test_the_losses_are_those_of_the_first_repeat(repeated):
    first = pooled(repeated).summary.losses.first
    assert list(first) == losses(make_run("mlp", {"dp": 2, "accumulation_steps": 1}), 5)
