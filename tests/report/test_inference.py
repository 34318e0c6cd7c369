"""Inference in the report: beside training and never mixed with it, the best configuration named, wrong ones not."""

from __future__ import annotations

import csv

import polars as pl
import pytest

from hpc_accel.report.judge import answer, inference
from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import inference_tables
from hpc_accel.report.show.figures import latency
from hpc_accel.report.write import write
from tests.report.editing import edit, missing
from tests.report.make_inference import add_inference
from tests.report.test_figures import check_drawable


@pytest.fixture
def inference_study(study):
    return study, add_inference(study)


def limits(highest, next_rate):
    """A change of the highest rate within the limit, and of the lowest that breaks it."""

    def change(summary):
        limit = summary["inference"]["limit"]
        limit["max_rate_per_s"]["value"], limit["next_rate_per_s"]["value"] = highest, next_rate

    return change


def without(reason, *names):
    """A change that takes figures out of the search for the highest rate."""
    return lambda summary: [missing(summary["inference"]["limit"][name], reason) for name in names]


def lines_of(study_dir):
    return {line.title: dict(line.parts) for line in answer.answer(load(study_dir)).details}


def test_training_and_inference_are_kept_apart(study):
    before = load(study)
    told = lines_of(study)
    add_inference(study)
    after = load(study)
    assert [run.run_id for run in after.runs] == [run.run_id for run in before.runs]
    assert len(after.inference_runs) == 4
    assert all(run.is_inference for run in after.inference_runs)
    now = lines_of(study)
    assert {title: now[title] for title in told if title != "Not measured"} == {
        title: text for title, text in told.items() if title != "Not measured"
    }
    assert "Best inference" not in told


def test_the_highest_rate_within_the_limit_wins_and_wrong_answers_never(inference_study):
    study, runs = inference_study
    text = lines_of(study)["Best inference"]["digits"]
    assert text.startswith("dp2 fp32 b8, 630 requests/s with p99 within 20 ms")
    found = answer.answer(load(study))
    assert found.for_inference == {"digits": runs["dp2"].run_id}
    assert any(runs["dp2"].run_id in command for command in found.submit)


def test_ties_are_rates_the_search_cannot_tell_apart(inference_study):
    study, runs = inference_study
    path = study / "runs" / runs["int8"].run_id / "summary.json"
    edit(path, limits(625.0, 650.0))
    text = lines_of(study)["Best inference"]["digits"]
    assert text.startswith("dp2 fp32 b8")
    assert "a tie with serial fp32 b8 quantize=int8" in text


def test_a_recipe_that_changes_answers_says_by_how_much(inference_study):
    study, runs = inference_study
    for key in ("serial", "dp2"):
        path = study / "runs" / runs[key].run_id / "summary.json"
        edit(path, limits(10.0, 11.0))
    text = lines_of(study)["Best inference"]["digits"]
    assert text.startswith("serial fp32 b8 quantize=int8, 420 requests/s")
    assert "differ from fp32 by up to 2.0 %, 97 % of the classes agree, accuracy 0.9 (fp32 0.91)" in text


def test_without_a_limit_the_shortest_tail_at_the_highest_rate_wins(inference_study):
    study, runs = inference_study
    change = without("the study names no limit", "latency_limit_ms", "max_rate_per_s")
    for run in runs.values():
        edit(study / "runs" / run.run_id / "summary.json", change)
    text = lines_of(study)["Best inference"]["digits"]
    assert text.startswith("dp2 fp32 b8, p99 7.14 ms (6.43 to 8.57) at 200 requests/s")
    assert "tie" not in text
    path = study / "runs" / runs["int8"].run_id / "summary.json"
    wide = {"ci_low": 1.0, "ci_high": None}
    edit(path, lambda s: s["inference"]["rates"][1]["latency_ms"]["p99"].update(wide))
    write(study)
    assert "a tie with serial fp32 b8 quantize=int8" in lines_of(study)["Best inference"]["digits"]
    assert "1.00 or more" in (study / "report.html").read_text()


def test_a_limit_that_none_holds_names_no_configuration(inference_study):
    study, runs = inference_study
    change = without("p99 is above 20 ms at 3 requests/s too", "max_rate_per_s")
    for run in runs.values():
        edit(study / "runs" / run.run_id / "summary.json", change)
    assert "no configuration (none within the limit: p99 is above 20 ms" in lines_of(study)["Best inference"]["digits"]


def test_a_missed_deadline_is_part_of_the_answer(inference_study):
    study, runs = inference_study
    late = {"passed": False, "share_missed": {"value": 0.03}}
    path = study / "runs" / runs["dp2"].run_id / "summary.json"
    edit(path, lambda s: s["inference"]["rates"][1]["deadline"].update(late))
    assert "at 200 requests/s 3.0 % miss the deadline of 20 ms" in lines_of(study)["Best inference"]["digits"]


def test_a_card_has_the_verdict_and_the_command(inference_study):
    study, runs = inference_study
    write(study)
    html = (study / "report.html").read_text()
    assert '<span class="status good">pass</span> the deadline of 20 ms is met up to 200 requests/s' in html
    command = f"bash {study / 'runs' / runs['dp2'].run_id / 'job.sbatch'}"
    assert html.count(f">{command}</code>") == 1
    assert "deadline" not in inference.deadline(load(study).runs[0]).words


def test_a_study_that_only_infers_has_a_whole_report(study):
    add_inference(study, only=True)
    found = write(study)
    assert [line.partition(":")[0] for line in found.lines] == ["Best inference", "Not measured"]
    assert "energy per request" in found.lines[-1]
    html = (study / "report.html").read_text()
    assert 'id="inference"' in html
    assert 'id="table"' not in html
    assert "Use <strong>dp2 fp32 b8</strong>" in html


def test_the_page_shows_rates_percentiles_deadlines_and_the_cache(inference_study):
    study, runs = inference_study
    write(study)
    html = (study / "report.html").read_text()
    section = html[html.index('<section id="inference">') :]
    section = section[: section.index("</section>")]
    for text in ("p99.9 ms", "missed (25 % late)", "met (0.0 % late)", "accuracy 0.9 (fp32 0.91)", "2.0e-07"):
        assert text in section, text
    assert "500 requests: p99.9 needs at least 1000" in section
    assert "Energy per request not measured" in section
    assert section.count("<figure") == 1
    not_counting = html[html.index('id="not-counting"') :]
    assert runs["pruned"].run_id in not_counting
    assert "40.0% of the classes" in not_counting


def test_the_chart_has_a_line_per_configuration_and_the_deadline(inference_study):
    study, _ = inference_study
    [figure] = latency.figures(load(study).inference_runs_of("digits"))
    check_drawable(figure.spec)
    names = [trace["name"] for trace in figure.spec["data"] if trace.get("showlegend") is not False]
    assert names == [
        "dp2 fp32 b8", "serial fp32 b8 quantize=int8", "serial fp32 b1", "deadline 20 ms", "latency limit 20 ms"
    ]  # fmt: skip
    p99 = next(trace for trace in figure.spec["data"] if trace["name"] == "serial fp32 b1")
    assert p99["x"] == [50.0, 200.0]
    assert p99["y"] == pytest.approx([2.5 / (1 - 50 / 400) * 5, 25.0])
    assert figure.spec["layout"]["yaxis"]["type"] == "log"


def test_nothing_measured_is_said_instead_of_drawn(inference_study):
    study, runs = inference_study
    for run in runs.values():
        (study / "runs" / run.run_id / "summary.json").unlink()
    records = load(study)
    [figure] = latency.figures(records.inference_runs_of("digits"))
    assert figure.spec is None
    assert "no inference run" in figure.gap
    assert "0 of 4 runs count" in lines_of(study)["Best inference"]["digits"]


def test_tables_for_programs(inference_study):
    study, runs = inference_study
    write(study)
    rows = {row["run_id"]: row for row in pl.read_parquet(study / "summary.parquet").iter_rows(named=True)}
    row = rows[runs["dp2"].run_id]
    rates = (row["mode"], row["batch_size"], row["arrival_rate_per_s"], row["max_rate_per_s"])
    assert rates == ("infer", 8, 200, pytest.approx(630))
    assert row["latency_p99_ms"] == pytest.approx(7.142857, rel=1e-5)
    assert row["speed_up"] is row["energy_per_request_j"] is None
    assert row["energy_per_request_j_reason"]
    metric = (row["metric"], row["metric_value"], row["metric_fp32"], row["metric_value_reason"])
    assert metric == ("accuracy", 0.9, 0.91, None)
    assert row["metric_difference"] == pytest.approx(-0.01)
    trained = [row for row in rows.values() if row["mode"] == "train"]
    assert trained
    assert all(row["batch_size"] is None for row in trained)
    rates = list(csv.DictReader((study / "inference.csv").open()))
    assert len(rates) == 8
    one = next(row for row in rates if row["run_id"] == runs["serial"].run_id and row["rate_per_s"] == "200")
    assert (one["deadline_passed"], one["latency_p99_9_ms"]) == ("false", "")
    assert "p99.9 needs" in one["latency_reason"]


def test_broken_records_of_inference_stop_nothing(inference_study):
    study, runs = inference_study
    broken = [{"inference": 7}, {"inference": {"rates": [3, {"rate_per_s": "x"}], "notes": "n"}}, {"outputs": []}]
    for run, change in zip(runs.values(), broken, strict=False):
        edit(study / "runs" / run.run_id / "summary.json", lambda s, change=change: s.update(change))
    write(study)
    assert len(inference_tables.run_rows(load(study))) == 4
