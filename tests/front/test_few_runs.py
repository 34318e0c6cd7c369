"""`hpc-accel search`: which candidates are measured, what is told of them, and real short runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hpc_accel.commands import planned_candidates
from hpc_accel.errors import ConfigError
from hpc_accel.front import few_runs
from hpc_accel.front.few_runs import apart, block_of, search, short_of
from hpc_accel.front.search_lines import lines_of
from hpc_accel.plan.spend import WIDE, Expected
from hpc_accel.record import storage
from hpc_accel.record.summary import Error, without_result
from hpc_accel.study.run_file import read_run
from tests.cli.test_mistakes import COMMAND
from tests.plan.examples import run
from tests.records import summary_in
from tests.report.conftest import measured

__all__ = ["measured"]


@pytest.fixture
def record(measured):
    """A record of a step time, known to 1 %; without one, why."""
    known = summary_in(next(path.parent for path in measured.glob("runs/mlp*/summary.json")))

    def made(ms: float | None):
        if ms is None:
            return "it failed"
        time = known.step_time_ms.changed(value=ms, ci_low=0.99 * ms, ci_high=1.01 * ms)
        return known.changed(step_time_ms=time, warnings=("disturbed: others computed",) if ms == 1.0 else ())

    return made


def test_few_of_many_and_what_is_told(tmp_path, record):
    rows = [(run(dp=dp, micro=micro, steps=50), 10.0 * dp * micro) for dp in (1, 2, 4) for micro in (1, 8)]
    rows.append((run(tp=2), None))
    runs = [Expected(run=each, time_ms=ms) for each, ms in rows]
    times = {id(each): ms * 1.05 for each, ms in rows if ms}
    asked = []

    def measure(short, directory):
        asked.append(short)
        whole = next(each for each, _ in rows if each.layout == short.layout)
        return record(times[id(whole)])

    found = search("toy", runs, tmp_path, most=5, short=0.2, tell=lambda line: None, measure=measure)
    assert len(asked) < 5 and {each.measure.steps for each in asked} == {10}
    assert (found.num_candidates, found.num_unpredicted) == (7, 1)
    assert found.best == rows[0][0].label and found.stopped == "no other could be faster"
    assert found.most_missed == 0
    assert found.spent_share < 0.05
    assert found.layouts[0] == {"micro_batch_size": 1, "accumulation_steps": 1}
    assert found.best in found.not_beaten


def test_ties_failures_and_nothing_predicted(tmp_path, record):
    rows = [(run(micro=1), 10.0), (run(micro=8), 10.1), (run(micro=64), 10.2)]
    runs = [Expected(run=each, time_ms=ms) for each, ms in rows]
    answers = iter([None, 9.0, 9.05])
    found = search(
        "toy", runs, tmp_path, most=3, short=1, tell=lambda line: None, measure=lambda *_: record(next(answers))
    )
    assert [each.measured_ms for each in found.trials] == [None, 9.0, 9.05]
    assert found.trials[0].reason == "it failed"
    assert set(found.finalists) == {rows[1][0].label, rows[2][0].label}
    with pytest.raises(ConfigError, match="no candidate of 1"):
        search("toy", [Expected(run=run(), time_ms=None)], tmp_path, most=3, short=1, tell=print)


def test_the_baseline_is_measured_and_wide_predictions_are_looked_at(tmp_path, record):
    """However slow the serial run is said to be; and what is said with a doubt of half may still win."""
    rows = [(run(dp=2, micro=4), 4.0, None), (run(micro=8), 40.0, None), (run(dp=4, micro=2), 7.0, WIDE)]
    runs = [Expected(run=each, time_ms=ms, error=error) for each, ms, error in rows]
    answers = {2: 4.0, 1: 1.0, 4: 5.0}
    found = search(
        "toy", runs, tmp_path, most=9, short=1, tell=lambda _: None, measure=lambda a, _: record(answers[a.layout.dp])
    )
    assert found.trials[0].is_disturbed
    assert any("nothing here is sure" in line for line in lines_of(found))
    assert found.trials[0].label == rows[1][0].label and found.best == rows[1][0].label
    slow = search(
        "toy", runs, tmp_path, most=9, short=1, tell=lambda _: None, measure=lambda a, _: record(50.0 / a.layout.dp)
    )
    assert {each.label for each in slow.trials} == {each.label for each, _, _ in rows}, "a slow baseline ends nothing"


def test_a_run_that_failed_is_measured_again(tmp_path, measured, monkeypatch):
    """One that ran is not, and what the study is for is said where the search goes by something else."""
    source = next(path.parent for path in measured.glob("runs/mlp*/summary.json"))
    kept, one = summary_in(source), read_run(source / "run.json")
    directory = tmp_path / one.run_id
    asked: list[str] = []
    ended = {"started_utc": "", "ended_utc": "", "attempt": 1, "job_id": None}
    failed = without_result(one, status="failed", error=Error(kind="other", message="a node died", remedy=""), **ended)

    def measure(run, directory):
        asked.append(run.run_id)
        storage.write(directory / "summary.json", kept)

    monkeypatch.setattr(few_runs, "_measure", measure)
    directory.mkdir()
    storage.write(directory / "summary.json", failed)
    assert few_runs.measured(one, directory).status == kept.status == "completed"
    assert few_runs.measured(one, directory) == kept and asked == [one.run_id]
    found = search(
        "toy", [Expected(run=one, time_ms=9.0)], tmp_path, most=1, short=1, tell=print, measure=lambda *_: kept
    )
    assert any("objective is energy" in line for line in lines_of(found, "energy"))
    assert not any("objective" in line for line in lines_of(found))


def test_what_is_told_of_recipes_energy_and_the_share_spent(tmp_path, record):
    """Finalists may differ by their recipe alone; 5 steps are taken at least; no missing energy is named."""
    rows = [run(dp=2, micro=4, steps=10), run(dp=2, micro=4, steps=10, precision="bf16")]
    runs = [Expected(run=each, time_ms=10.0) for each in rows]

    def searched(energies):
        answers = iter(energies)

        def measure(*_):
            made = record(9.0)
            joules, scope = next(answers)
            part = made.energy
            per_step = part.per_step_j.changed(value=joules, reason="" if joules else "no sensor")
            return made.changed(energy=part.changed(per_step_j=per_step, scope=scope))

        return search("toy", runs, tmp_path, most=2, short=0.01, tell=lambda _: None, measure=measure)

    found = searched([(5.0, "node"), (6.0, "node")])
    assert found.layouts == ({"dp": 2, "micro_batch_size": 4, "accumulation_steps": 1},)
    assert [each["precision"] for each in found.recipes] == ["fp32", "bf16"]
    assert '      - {"precision": "bf16"}' in lines_of(found)
    assert found.spent_share == pytest.approx((5 + 2) / (10 + 5))
    assert any("node-seconds and energy together" in line for line in lines_of(found))
    for energies in ([(None, None), (None, None)], [(5.0, "node"), (6.0, "gpu-board")]):
        found = searched(energies)
        assert not found.energy_compared
        assert any("not beaten in time and node-seconds together" in line for line in lines_of(found))


def test_repeats_are_one_candidate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "workload: {name: mlp}\nlayouts: [{}, {dp: 2}]\nresources: {ranks_per_node: 2}\ncalibrate: false\n"
        "measure: {steps: 4, repeats: 3}\n"
    )
    Path("results/mine").mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "cli" / "hardware.json", "results/mine/hardware.json")
    [found] = planned_candidates(Path("mine.yaml"), Path("results/mine")).values()
    assert [each.run.layout.dp for each in found] == [1, 2]


def test_blocks_and_short_runs():
    assert apart(block_of(run(micro=2)), block_of(run(micro=8, tp=2))) == pytest.approx(5**0.5)
    assert apart(block_of(run()), block_of(run(precision="bf16"))) is None
    assert short_of(run(steps=100), 0.1).measure.steps == 10
    assert short_of(run(steps=20), 0.1).measure.steps == 5
    assert short_of(run(steps=3), 0.1).measure.steps == 3


def test_real_short_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "workload: {name: mlp}\nlayouts: [{accumulation_steps: [1, 4]}, {dp: 2, accumulation_steps: [1, 5]}]\n"
        "resources: {ranks_per_node: 2}\ncalibrate: false\nmeasure: {steps: 40}\n"
    )
    Path("results/mine").mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "cli" / "hardware.json", "results/mine/hardware.json")
    words = [COMMAND, "search", "mine.yaml", "--measure", "3"]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)
    assert 1 <= len(found["trials"]) <= 3 and found["num_candidates"] == 4
    assert all(each["measured_ms"] for each in found["trials"]), done.stderr
    assert found["best"] and found["layouts"]
    assert json.loads(Path("results/mine/search/search.json").read_text()) == [found]
    for each in found["trials"]:
        assert (
            json.loads(Path("results/mine/search/runs", each["run_id"], "run.json").read_text())["measure"]["steps"]
            == 8
        )
    again = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0 and f"best: {found['best']}" in again.stdout
