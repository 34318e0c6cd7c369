"""The charts: drawable, the right values in the right order, nothing drawn that was not measured."""

from __future__ import annotations

import json

import polars as pl
import pytest

from hpc_accel.report.judge import ranking
from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import figures
from hpc_accel.report.show.figures import loss, style
from tests.report.editing import ERROR, edit, edit_all, edit_summary, missing, run_of, set_time

FAMILIES = [
    "throughput", "phases", "speedup", "efficiency", "strong-scaling", "pareto-energy", "pareto-cost", "energy",
    "energy-phases", "predicted", "timeline", "memory", "loss", "parity", "startup",
]  # fmt: skip


def charts(study_dir, workload="digits"):
    return {figure.key: figure for figure in figures.of_workload(load(study_dir).of(workload))}


def traces(figure, kind):
    return [trace for trace in figure.spec["data"] if trace["type"] == kind and trace["name"] != "values"]


def check_drawable(spec):
    """What template/chart.js takes for granted of a figure."""
    for trace in spec["data"]:
        assert trace["type"] in ("bar", "scatter")
        assert len(trace["x"]) == len(trace["y"])
        parts = (
            trace.get("hovertext"),
            trace.get("text"),
            *(trace.get(key, {}).get("array") for key in ("error_x", "error_y")),
        )
        assert {len(part) for part in parts if part} <= {len(trace["x"])}
        assert trace["type"] == "bar" or set(trace["mode"].split("+")) <= {"lines", "markers", "text"}
    for axis in ("xaxis", "yaxis"):
        assert "text" in spec["layout"][axis]["title"]
        assert spec["layout"][axis].get("type") != "log" or spec["layout"][axis]["tickvals"]


def test_every_chart_can_be_drawn(energy_study):
    for workload in ("digits", "lm", "mlp"):
        found = charts(energy_study, workload)
        assert list(found) == FAMILIES
        for figure in found.values():
            if figure.key == "timeline":
                assert "left no readable trace.json" in figure.gap  # nothing was run here
                continue
            check_drawable(figure.spec)
            assert figure.caption
            json.dumps(figure.spec, allow_nan=False)
            assert all(name and color.startswith("var(--c-") for _, color, name in figure.legend)


def test_throughput_is_fastest_first_with_intervals(study):
    edit_summary(study, "digits", "serial fp32 x4", set_time(1.0, 0.9, 1.25))
    figure = charts(study)["throughput"]
    assert figure.spec["layout"]["yaxis"]["categoryarray"][-1] == "serial fp32 x4"
    serial = next(trace for trace in traces(figure, "bar") if trace["name"] == "serial")
    at = serial["y"].index("serial fp32 x4")
    assert serial["x"][at] == pytest.approx(64000)
    assert serial["error_x"]["arrayminus"][at] == pytest.approx(64000 - 64000 / 1.25)
    assert serial["error_x"]["array"][at] == pytest.approx(64000 / 0.9 - 64000)
    drawn = [label for trace in traces(figure, "bar") for label in trace["y"]]
    assert len(drawn) == 15
    assert "tp2 bf16 x4" not in drawn  # wrong


def test_many_runs_are_cut_and_that_is_said(study):
    runs = [run for run in load(study).of("digits") if run.counts] * 4
    figure = figures.throughput.figures(runs)[0]
    assert "The 40 fastest of 60 runs" in figure.caption
    assert sum(len(trace["y"]) for trace in traces(figure, "bar")) == style.MAX_BARS


def test_phases_leave_out_what_was_not_measured(study):
    def forget(summary):
        missing(summary["phases_ms"]["comm_exposed"], "backend gloo does not report it")

    edit_summary(study, "mlp", "dp2 fp32 x1", forget)
    figure = charts(study, "mlp")["phases"]
    assert "exposed communication" not in [trace["name"] for trace in traces(figure, "bar")]
    assert "not measured in 1 run: backend gloo does not report it" in figure.caption


def test_speed_up_and_efficiency(study):
    edit_summary(study, "mlp", "serial fp32 x1", set_time(10))
    edit_summary(study, "mlp", "dp2 fp32 x1", set_time(8))
    found = charts(study, "mlp")
    dp = next(trace for trace in traces(found["speedup"], "scatter") if trace["name"].startswith("data"))
    assert dp["y"] == [pytest.approx(1.25)]
    dp = next(trace for trace in traces(found["efficiency"], "scatter") if trace["name"].startswith("data"))
    assert dp["y"] == [pytest.approx(62.5)]
    ideal = found["speedup"].spec["data"][0]
    assert (ideal["x"], ideal["y"]) == ([1, 2], [1, 2])


def test_without_a_serial_run_the_speed_up_is_a_sentence(study):
    edit_summary(study, "mlp", "serial fp32 x1", lambda s: s.update(status="failed", error=ERROR))
    figure = charts(study, "mlp")["speedup"]
    assert figure.spec is None
    assert figure.gap.startswith("Not measured: no serial run counts (serial fp32 x1 is failed)")


def test_a_serial_run_of_another_precision_is_no_baseline(study):
    run = run_of(study, "mlp", "dp2 fp32 x1")
    edit(run.directory / "run.json", lambda content: content["recipe"].update(precision="bf16"))
    assert "a serial run of its precision" in charts(study, "mlp")["speedup"].gap


def test_no_sensor_gives_a_sentence_and_no_chart(study):
    figure = charts(study)["energy"]
    assert figure.spec is None
    assert figure.gap.startswith("Not measured: no readable sensor")
    assert "What to do: run on nodes with" in figure.gap


def test_each_scope_of_energy_has_its_own_chart(energy_study):
    edit_summary(energy_study, "mlp", "dp2 fp32 x1", lambda s: s["energy"].update(scope="node"))
    found = charts(energy_study, "mlp")
    assert [found[key].title for key in ("energy", "energy1")] == ["Energy (gpu-board)", "Energy (node)"]
    assert all(len(traces(found[key], "bar")) == 1 for key in ("energy", "energy1"))


def test_prediction_states_its_error_and_rank_correlation(study):
    caption = charts(study)["predicted"].caption
    assert "(MAPE) 10 %" in caption
    assert "(Spearman) 0.87, over 15 runs" in caption
    assert "n/a (needs 3" in charts(study, "mlp")["predicted"].caption


def test_an_exact_zero_has_a_place_on_the_parity_axis(study):
    figure = charts(study, "mlp")["parity"]
    points = next(trace for trace in traces(figure, "scatter") if trace["name"] == "same losses")
    assert points["x"][points["y"].index("serial fp32 x1")] == 1e-9
    assert "identical" in points["hovertext"][points["y"].index("serial fp32 x1")]


def test_losses_are_thinned_and_bad_rows_counted(tmp_path):
    path = tmp_path / "steps.parquet"
    steps = list(range(1000))
    values = [float("nan") if step == 3 else float("inf") if step == 5 else 1.0 / (1 + step) for step in steps]
    frame = pl.DataFrame({"step": steps, "rank": [0] * 1000, "loss": values})
    # Rank 1 knows no loss, which is no fault; step 7 was written twice, by two tries.
    other = frame.with_columns(pl.lit(1, pl.Int64).alias("rank"), pl.lit(None, pl.Float64).alias("loss"))
    pl.concat([frame, other, frame.slice(7, 1)]).write_parquet(path)
    curve, dropped, unreadable = loss.read_losses(path)
    assert (dropped, unreadable) == (3, False)
    assert len(curve) <= loss.MAX_POINTS
    assert curve[0] == (0, 1.0)


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", b"\0" * 100])
def test_a_broken_step_file_falls_back_to_the_first_losses(study, content):
    run = run_of(study, "mlp", "dp2 fp32 x1")
    (run.directory / "steps.parquet").write_bytes(content)
    figure = charts(study, "mlp")["loss"]
    assert "1 run left no readable steps.parquet" in figure.caption
    assert sorted(len(trace["x"]) for trace in figure.spec["data"]) == [5, 35]


def test_columns_of_another_kind_are_an_unreadable_file(tmp_path):
    pl.DataFrame({"step": ["a"], "rank": [0], "loss": ["x"]}).write_parquet(tmp_path / "steps.parquet")
    assert loss.read_losses(tmp_path / "steps.parquet") == ([], 0, True)
    pl.DataFrame({"time": [1]}).write_parquet(tmp_path / "steps.parquet")
    assert loss.read_losses(tmp_path / "steps.parquet") == ([], 0, True)


def test_without_runs_that_count_every_chart_is_a_sentence(study):
    edit_all(study, lambda s: s.update(status="failed", error=ERROR), "mlp")
    found = charts(study, "mlp")
    assert all(figure.spec is None and figure.gap for key, figure in found.items() if key != "parity")


def test_overlapping_order_is_shared_by_the_bar_charts(study):
    found = charts(study)
    orders = [found[key].spec["layout"]["yaxis"]["categoryarray"] for key in ("throughput", "phases")]
    assert orders[0] == orders[1]
    times = [ranking.step_time_ms(run_of(study, "digits", name)).value for name in orders[0]]
    assert times == sorted(times, reverse=True)


def test_the_cost_of_parity_counts_every_serial_run_of_a_reference_job(study):
    told = {name: {"kind": name, "duration_s": seconds} for name, seconds in (("whole", 4.0), ("grouped", 2.5))}
    job = study / "references" / "digits-1"
    job.mkdir(parents=True)
    (job / "reference.json").write_text(json.dumps({"format": 1, "duration_s": 0.1, "references": told}))
    assert "One reference job per workload, seed and batch: 1 in 6.5 s together" in charts(study)["parity"].caption
