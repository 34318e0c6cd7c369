"""Energy in the report: per something, by phase, CO2 and money by the site's factors, estimates apart and labelled."""

from __future__ import annotations

from typing import Any

import pytest

from hpc_accel.report.judge.answer import answer
from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import check_tables, energy_tables, figures
from hpc_accel.report.write import write
from tests.report.editing import edit, edit_all, edit_summary, missing, row_of, run_of

DP2 = ("mlp", "dp2 fp32 x1")


def row(study, workload: str = "mlp", label: str = "dp2 fp32 x1") -> dict[str, Any]:
    return row_of(study, workload, label)


def set_factors(study, **factors) -> None:
    edit(study / "plan.json", lambda plan: plan["factors"].update(factors))


def test_carbon_and_money_follow_from_the_sites_factors(energy_study):
    set_factors(energy_study, carbon_g_per_kwh=400.0, electricity_price_per_kwh=0.5)
    edit_summary(energy_study, *DP2, lambda s: s["energy"].update(energy_j=7.2e6))
    found = row(energy_study)
    assert (float(found["carbon_g"]), float(found["electricity_cost"])) == (800.0, 1.0)
    assert (found["carbon_g_reason"], found["electricity_cost_reason"]) == (None, None)
    lines = answer(load(energy_study)).lines
    assert " g CO2 a million samples" in lines[1]
    assert ", electricity " in lines[2]


def test_without_factors_they_are_empty_with_a_reason(energy_study):
    set_factors(energy_study, carbon_g_per_kwh=None, electricity_price_per_kwh=None)
    found = row(energy_study)
    assert (found["carbon_g"], found["electricity_cost"]) == (None, None)
    assert found["carbon_g_reason"] == "the site gives no carbon_g_per_kwh"
    lines = answer(load(energy_study)).lines
    assert "CO2" not in lines[1]
    assert "CO2 (the site gives no carbon_g_per_kwh)" in lines[4]


def test_without_energy_everything_has_the_energys_reason(study):
    set_factors(study, carbon_g_per_kwh=400.0, electricity_price_per_kwh=0.5)
    found = row(study)
    for column in ("carbon_g", "electricity_cost", "energy_per_token_j", "idle_power_w", "energy_compute_j"):
        assert found[column] is None, column
        assert "no readable sensor" in found[f"{column}_reason"], column


def test_nothing_is_estimated_unless_the_study_asks(study):
    set_factors(study, power_w_per_node=500.0)
    found = row(study)
    assert (found["estimated_energy_j"], found["estimated_method"]) == (None, None)
    assert "does not ask" in found["estimated_energy_j_reason"]
    assert energy_tables.estimates(load(study)) is None
    assert "estimated" not in answer(load(study)).text


def test_an_estimate_is_labelled_and_ranks_nothing(study):
    before = answer(load(study)).winners
    edit(study / "plan.json", lambda plan: plan.update(objective="energy"))
    set_factors(study, estimate="tdp", power_w_per_node=500.0)
    found, seconds = row(study), run_of(study, *DP2).summary.step_time_ms.value * 30 / 1e3
    assert float(found["estimated_energy_j"]) == pytest.approx(500.0 * seconds)
    assert found["estimated_method"] == "estimated: 500 W per node, not measured"
    assert found["energy_j"] is None
    said = answer(load(study)).lines[1]
    assert "not measured: no readable sensor" in said
    assert "J/sample estimated: 500 W per node, not measured]" in said
    assert answer(load(study)).winners == before
    write(study)
    assert "Estimates, not measured" in (study / "report.html").read_text()


def test_an_estimate_without_power_says_what_is_missing(study):
    set_factors(study, estimate="tdp")
    assert "no power_w_per_node" in row(study)["estimated_energy_j_reason"]
    assert "no power_w_per_node" in energy_tables.estimates(load(study))["reason"]


def test_joules_by_phase_add_up_to_those_per_sample(energy_study):
    [figure] = figures.energy_phases.figures(load(energy_study).of("digits"))
    label = "pp2.1f1b fp32 x4"
    parts = {trace["name"]: trace["x"][trace["y"].index(label)] for trace in figure.spec["data"] if label in trace["y"]}
    assert set(parts) == {"compute", "exposed communication", "pipeline bubble", "idle"}
    assert sum(parts.values()) == pytest.approx(float(row(energy_study, "digits", label)["energy_per_sample_j"]))
    assert "each phase shows the mean power" in figure.caption


def test_energy_that_was_not_split_says_why(energy_study):
    change = {"by_phase_j": {}, "reason": "no power was sampled"}
    edit_all(energy_study, lambda s: s["energy"]["phases"].update(change), "mlp")
    [figure] = figures.energy_phases.figures(load(energy_study).of("mlp"))
    assert figure.gap == "Not measured: no power was sampled."
    assert row(energy_study)["energy_compute_j_reason"] == "no power was sampled"


def test_checkpoints_are_a_phase_of_their_own(energy_study):
    edit_summary(energy_study, *DP2, lambda s: s["checkpoints"].update(save_ms=[100.0, 150.0]))
    [figure] = figures.startup.figures(load(energy_study).of("mlp"))
    saved = next(trace for trace in figure.spec["data"] if trace["name"] == "checkpoints")
    assert (saved["y"], saved["x"]) == (["dp2 fp32 x1"], [0.25])
    names = [trace["name"] for trace in figure.spec["data"]]
    assert names == ["imports", "MPI", "model and layout", "first step", "checkpoints"]


def test_utilisation_overlap_and_the_ideal_bubble_are_in_the_table(energy_study):
    found = row(energy_study, "digits", "pp2.1f1b fp32 x4")
    assert float(found["bubble_ideal"]) == pytest.approx(0.2)
    assert float(found["mfu"]) == pytest.approx(0.6 / 2**0.5)
    assert float(found["comm_overlapped_ms"]) > 0
    assert "nobody to communicate with" in row(energy_study, "mlp", "serial fp32 x1")["comm_overlapped_ms_reason"]
    edit_summary(energy_study, *DP2, lambda s: missing(s["flops"]["mfu"], "no probed fp32 peak"))
    assert row(energy_study)["mfu_reason"] == "no probed fp32 peak"
    write(energy_study)
    html = (energy_study / "report.html").read_text()
    assert "<small>ideal 20 %</small>" in html
    assert 'title="no probed fp32 peak"' in html


def test_outliers_and_warm_up_are_shown(energy_study):
    def disturb(summary):
        summary["steps"]["num_warmup_detected"]["value"] = 9
        summary["steps"]["outliers"].update(count=2, steps=[7, 19])

    edit_summary(energy_study, *DP2, disturb)
    run = run_of(energy_study, *DP2)
    assert check_tables.outlier_words(run) == "2: steps 7, 19"
    assert check_tables.warmup_words(run) == "5 left out, 9 detected (too few left out)"
    assert row(energy_study)["num_outliers"] == 2


def test_what_runs_warn_of_stands_on_the_page_once(energy_study):
    edit_all(energy_study, lambda s: s.update(warnings=["energy: timed for 0.2 s"]), "mlp")
    [warning] = check_tables.warnings(load(energy_study))
    assert warning == {"text": "energy: timed for 0.2 s", "runs": "mlp serial fp32 x1 and mlp dp2 fp32 x1"}
    write(energy_study)
    html = (energy_study / "report.html").read_text()
    # Once with all warnings, and on the card of the recommended run, whose warning it is.
    assert html.split('<section id="checks">')[1].count("energy: timed for 0.2 s") == 1
    assert html.split('<section id="checks">')[0].count("energy: timed for 0.2 s") == 1
    assert row(energy_study)["warnings"] == "energy: timed for 0.2 s"


def test_a_run_that_could_not_be_predicted_still_has_a_cost(energy_study):
    set_factors(energy_study, price_per_node_hour=3.6)

    def unpredicted(plan):
        for each in plan["candidates"]:
            if each["chosen"]:
                each["prediction"] = {"step_time_ms": None, "cost": None}

    edit(energy_study / "plan.json", unpredicted)
    seconds = run_of(energy_study, *DP2).summary.step_time_ms.value * 30 / 1e3
    assert float(row(energy_study)["cost"]) == pytest.approx(seconds / 1000)
    assert row(energy_study)["cost_reason"] is None


def test_the_predicted_energy_is_of_as_many_steps_as_were_timed(energy_study):
    run = run_of(energy_study, *DP2)

    def predict(plan):
        for each in plan["candidates"]:
            if each["run_id"] == run.run_id:
                each["prediction"]["energy_j"] = 30.0

    edit(energy_study / "plan.json", predict)
    assert float(row(energy_study)["predicted_energy_j"]) == pytest.approx(30.0)
    edit_summary(energy_study, *DP2, lambda s: s["steps"].update(num_timed=90))
    assert float(row(energy_study)["predicted_energy_j"]) == pytest.approx(90.0)
