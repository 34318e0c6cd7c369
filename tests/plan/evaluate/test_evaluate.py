"""Published tables from file to figures: mapping, layouts, calibration without leaks, and the command."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.plan.evaluate.calibrate import chosen_rows, ratio_for, scales_of
from hpc_accel.plan.evaluate.cases import cases_of
from hpc_accel.plan.evaluate.mapping import mapping_of, read_rows
from hpc_accel.plan.evaluate.predict import Predictor
from hpc_accel.plan.evaluate.run import evaluate
from hpc_accel.plan.shipped import hardware_of
from tests.mpirun import ROOT

DATA = ROOT / "benchmarks" / "data"
A100 = DATA / "a100_single_node_dev.csv"


def loaded(name: str):
    path = DATA / name
    rows = read_rows(path)
    mapping = mapping_of(rows, path, None)
    return mapping, cases_of(rows, mapping)


def test_a_row_becomes_the_layout_that_ran():
    mapping, cases = loaded(A100.name)
    assert mapping.name == "Megatron-LM on A100"
    first = cases[0]  # 2 GPUs, batch 16, micro-batch 8, pp 2, 24 layers of 1024
    assert (first.layout.pp, first.layout.accumulation_steps, first.layout.schedule) == (2, 2, "1f1b")
    assert first.layout.split == (13, 13) and first.recompute == "full"
    assert first.step_time_s == pytest.approx(0.372160408)


def test_a_table_nobody_mapped_says_what_to_do(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="mapping"):
        evaluate(path, "a100-sxm-80gb")


def test_hardware_nobody_ships_names_those_there_are():
    with pytest.raises(ConfigError, match="h100-sxm"):
        evaluate(A100, "tpu")


def test_uncalibrated_the_planner_beats_constant_and_rule():
    found = evaluate(A100, "a100-sxm-80gb")
    planner, constant, rule = found["planner"], found["constant"], found["rule"]
    assert (found["num_rows"], planner["num_groups"]) == (740, 72)
    assert planner["mape"] < 10 < constant["mape"]
    assert planner["regret_first_1"] < 3.5 < rule["regret_first_1"] < constant["regret_first_1"]


def test_one_measured_row_of_each_block_is_enough():
    planner = evaluate(A100, "a100-sxm-80gb", calibrate=1)["planner"]
    assert planner["mape"] < 3 and planner["regret_first_1"] < 0.5 and planner["best_picked"] >= 90


def test_calibration_takes_its_rows_from_other_groups_and_finds_what_they_took():
    mapping, cases = loaded(A100.name)
    held = {case.fold for case in cases[:40]}
    chosen = chosen_rows((case for case in cases if case.fold not in held), 1, seed=0)
    assert chosen and all(case.fold not in held for rows in chosen.values() for case in rows)
    assert chosen == chosen_rows((case for case in cases if case.fold not in held), 1, seed=0)
    predictor = Predictor(mapping, hardware_of("a100-sxm-80gb"))
    scales = scales_of(predictor, chosen)
    for scale in scales[:5]:
        case = next(case for case in cases if case.number == scale.rows[0])
        answer = predictor.answer(case, ratio_for(case.block, scales))
        assert answer.step_time_s == pytest.approx(case.step_time_s, rel=1e-3)


def test_the_block_of_a_kind_that_nobody_measured_follows_its_neighbours():
    mapping, cases = loaded(A100.name)
    predictor = Predictor(mapping, hardware_of("a100-sxm-80gb"))
    scales = scales_of(predictor, chosen_rows(cases, 1, seed=0))
    kind = scales[0].kind
    others = [scale for scale in scales if scale.kind != kind]
    ratios = [scale.ratio for scale in others]
    assert min(ratios) < ratio_for(kind, others) < max(ratios)
    assert ratio_for(("other", *kind[1:]), others) is None or isinstance(kind[0], int)


def test_what_cannot_be_predicted_is_refused_with_its_reason():
    found = evaluate(DATA / "h100_sweep_dev.csv", "h100-sxm")
    reasons = [each["reason"] for each in found["refused"]]
    assert any("would be empty" in reason for reason in reasons)
    assert any("for every micro-batch" in reason for reason in reasons)
    assert found["planner"]["num_refused"] > 0


def test_nothing_is_ranked_where_layouts_do_not_differ():
    found = evaluate(DATA / "fsdp_a100_40gb_dev.csv", "a100-sxm-40gb")
    assert found["planner"]["num_groups"] == 0 and found["planner"]["mape"] < 15
    assert evaluate(DATA / "fsdp_a100_40gb_dev.csv", "a100-sxm-40gb", calibrate=1)["planner"]["mape"] < 8


def test_the_command_prints_json_without_importing_torch(tmp_path):
    with A100.open() as file:
        lines = [line for line in file if not line.startswith("#")]
    some = tmp_path / "some.csv"
    some.write_text("".join(lines[:30]))
    code = (
        "import sys; from hpc_accel.cli import app\n"
        f"app(['plan', 'evaluate', {str(some)!r}, '--hardware', 'a100-sxm-80gb', '--json'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(ran.stdout)
    assert found["num_rows"] == len(list(csv.DictReader(lines[:30])))
    assert set(found) >= {"planner", "constant", "rule", "memory", "refused"}


def test_memory_between_steps_and_at_its_peak_is_that_of_megatrons_own_tests():
    memory = evaluate(DATA / "megatron_memory_a100_dev.csv", "a100-sxm-80gb")["memory"]
    assert memory["held_within_2_percent"] >= 90
    assert memory["peak_in_or_near_range"] >= 90


def test_runs_that_fitted_are_not_refused_and_few_failed_ones_are_called_a_fit():
    memory = evaluate(DATA / "h100_sweep_dev.csv", "h100-sxm")["memory"]
    assert memory["ran_but_refused"] <= 10
    assert memory["failed_but_called_fit"] <= 25
