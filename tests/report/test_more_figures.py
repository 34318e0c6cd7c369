"""Scaling, the front of time against energy and cost, memory by who holds it, and one step on all ranks."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from hpc_accel.report.judge import ranking
from hpc_accel.report.judge.answer import answer as answer_of
from hpc_accel.report.load.study_records import load
from hpc_accel.report.show.figures import memory, pareto, predicted, style, timeline
from hpc_accel.report.show.page import ranked_words
from tests.report.editing import edit, edit_summary, run_of, set_time
from tests.report.test_figures import charts, check_drawable, traces


def by_name(figure, kind="scatter"):
    return {trace["name"]: trace for trace in traces(figure, kind)}


def test_strong_scaling_has_the_best_of_each_kind_and_the_ideal(study):
    edit_summary(study, "lm", "serial fp32 x4", set_time(100, 90, 110))
    edit_summary(study, "lm", "dp2 fp32 x4", set_time(60, 59, 62))
    figure = charts(study, "lm")["strong-scaling"]
    found = by_name(figure)
    assert found["ideal"]["y"] == [pytest.approx(160), pytest.approx(320), pytest.approx(640)]
    data = found[style.KINDS["data"]]
    assert (data["x"], data["y"]) == ([2], [pytest.approx(16 / 0.06)])
    assert data["error_y"]["array"] == [pytest.approx(16 / 0.059 - 16 / 0.06)]
    assert "at a global batch of 16 in fp32" in figure.caption


def test_the_front_holds_what_nothing_beats_in_both(energy_study):
    figure = charts(energy_study)["pareto-energy"]
    runs = [run for run in load(energy_study).of("digits") if run.counts]
    front = by_name(figure)["front"]
    at = {run.label: (ranking.step_time_ms(run).value / 64, ranking.energy_per_sample_j(run) * 1e6) for run in runs}
    assert front["x"] == sorted(front["x"])
    for x, y in zip(front["x"], front["y"], strict=True):
        assert not [label for label, (time, energy) in at.items() if time < x and energy < y]
    assert "On the front: dp2.pp2.1f1b bf16 x4 and dp2 bf16 x1." in figure.caption


def test_nothing_measured_no_front(study):
    assert pareto.figures(load(study).of("digits")) == []


def test_memory_beside_what_was_predicted_and_what_there_is(study):
    def on_a_card(summary):
        for key, mib in (("peak_memory_bytes", 300), ("reserved_bytes", 400), ("device_used_bytes", 450)):
            summary["memory"][key].update(value=mib * memory.MIB, reason="")

    edit_summary(study, "mlp", "dp2 fp32 x1", on_a_card)
    edit(study / "plan.json", lambda plan: [c["prediction"].update(memory_limit_bytes=800 * memory.MIB)
                                            for c in plan["candidates"] if c.get("prediction")])  # fmt: skip
    run = run_of(study, "mlp", "dp2 fp32 x1")
    assert [memory.part_mib(run, part) for part in memory.PARTS] == [300, 100, 50]
    marks = by_name(charts(study, "mlp")["memory"])
    assert marks["predicted"]["x"][0] == pytest.approx(200e6 / memory.MIB)
    assert marks["limit"]["x"] == [800, 800]


def span(rank, name, begin_ms, length_ms, tid=0):
    return {"ph": "X", "pid": rank, "tid": tid, "name": name, "ts": 1e3 * begin_ms, "dur": 1e3 * length_ms}


def test_the_step_nearest_the_median_is_drawn_below_the_prediction(study):
    best = ranking.fastest(load(study).of("digits")).run
    events = [{"ph": "M", "pid": 0, "name": "process_name"}]
    for rank in (0, 1):
        for number, length in enumerate((50.0, 20.0, 21.0)):
            begin = 100.0 * number + rank
            events += [span(rank, "step", begin, length), span(rank, "forward", begin + 1, 5.0)]
            events += [span(rank, "all_reduce", begin + 8, 3.0, tid=1)]
    (best.directory / "trace.json").write_text(json.dumps({"traceEvents": events}))
    edit(study / "plan.json", lambda plan: [c["prediction"].update(parts_ms={"forward": 4.0, "bubble": 2.0})
                                            for c in plan["candidates"] if c.get("prediction")])  # fmt: skip
    figure = charts(study)["timeline"]
    check_drawable(figure.spec)
    assert figure.spec["layout"]["yaxis"]["categoryarray"] == ["rank 1", "rank 0", "predicted"]
    forward = by_name(figure, "bar")["forward"]
    assert list(zip(forward["y"], forward["base"], forward["x"], strict=True)) == [
        ("predicted", 0, 4), ("rank 0", 1, 5), ("rank 1", 2, 5),
    ]  # fmt: skip
    sent = by_name(figure, "bar")["communication"]
    assert list(zip(sent["y"], sent["base"], strict=True)) == [("rank 0", 8), ("rank 1", 9)]


@pytest.mark.parametrize("content", ["", "[]", '{"traceEvents": [{"ph": "X", "ts": "now", "dur": null, "pid": []}]}'])
def test_a_broken_trace_is_a_sentence(study, content):
    best = ranking.fastest(load(study).of("digits")).run
    (best.directory / "trace.json").write_text(content)
    assert (
        timeline.figures(load(study).of("digits"))[0].gap == f"Not available: {best.label} left no readable trace.json."
    )


def test_marks_under_others_are_left_out_and_counted(study):
    runs = load(study).of("digits") * 50
    figure = predicted.figures(runs)[0]
    assert sum(len(trace["x"]) for trace in traces(figure, "scatter") if trace["name"] != "exact") == 15
    assert "15 of 750 marks are drawn; the others lie under them." in figure.caption


def test_receiving_is_waiting_for_another_stage(study):
    assert timeline._part({"tid": 2, "name": "recv"}) == "bubble"
    assert timeline._part({"tid": 1, "name": "all_reduce"}) == "communication_exposed"
    assert timeline._part({"tid": 0, "name": "step"}) == ""


def test_the_price_is_that_of_the_steps_that_were_timed(study):
    run = run_of(study, "digits", "serial fp32 x4")
    priced = replace(run, candidate={**run.candidate, "price_per_node_hour": 3.6})
    assert priced.num_timed > 0
    time = ranking.step_time_ms(priced)
    assert ranking.cost(priced).value == pytest.approx(3.6 * priced.num_timed * time.value / 3.6e6)


def test_a_command_to_copy_starts_the_script_and_nothing_else(study):
    records = load(study)
    run = replace(records.runs[0], directory=Path("results/of mine; touch it"))
    assert shlex.split(records.submit_command(run)) == ["bash", "results/of mine; touch it/job.sbatch"]


def test_a_repeat_that_failed_is_told_beside_those_that_count(study):
    records = load(study)
    run = next(each for each in records.runs if each.counts)
    failed = replace(run, status="failed")
    told = replace(records, runs=[replace(run, repeats=(run, failed))])
    answer = answer_of(told)
    assert "1 repeat of them did not" in ranked_words(told, answer)
    assert any("1 repeat of runs that count" in text for line in answer.details for _, text in line.parts)
