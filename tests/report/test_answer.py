"""The five lines: who wins, who ties, what is never ranked, and what was not measured."""

from __future__ import annotations

import json

import pytest

from hpc_accel.report.judge import ranking
from hpc_accel.report.judge.answer import Answer, answer
from hpc_accel.report.load.study_records import load
from hpc_accel.report.write import write
from tests.report.editing import ERROR, edit, edit_all, edit_summary, no_energy, run_of, set_time


def answered(study) -> Answer:
    """The answer without the page."""
    return answer(load(study))


def line(study, number: int) -> str:
    return answered(study).lines[number]


def test_five_lines_name_every_workload(study):
    answer = write(study)
    assert len(answer.lines) == 5
    assert (study / "answer.txt").read_text() == answer.text
    for workload in ("digits", "lm", "mlp"):
        assert f"{workload}: " in answer.lines[0]
        assert f"{workload}: " in answer.lines[3]
    assert "mlp: none, serial is the fastest" in answer.lines[3]
    assert max(map(len, answer.lines)) < 400


def test_programs_get_the_same_answer(study):
    found = answered(study)
    content = json.loads(json.dumps(found.to_json()))
    assert content["winners"] == found.winners
    assert content["lines"]["Best for energy"][0]["workload"] is None
    assert [part["workload"] for part in content["lines"]["Best for time"]] == ["digits", "lm", "mlp"]
    assert (content["num_runs"], content["num_ranked"]) == (25, 22)


def test_the_winner_has_a_script_to_submit(study):
    found = answered(study)
    winner = run_of(study, "digits", "dp2.pp2.1f1b fp32 x4")
    assert found.winners["digits"] == winner.run_id
    assert found.submit[0] == f"bash {winner.directory / 'job.sbatch'}"
    edit(study / "plan.json", lambda plan: plan.update(site="cluster"))
    assert answered(study).submit[0].startswith("sbatch ")


def test_a_fast_wrong_run_never_wins(study):
    edit_summary(study, "digits", "tp2 bf16 x4", set_time(0.001))
    assert "tp2 bf16 x4" not in line(study, 0)
    assert "1 run wrong (digits tp2 bf16 x4)" in line(study, 4)


@pytest.mark.parametrize(("low", "tie"), [(21.9, True), (22.2, False)])
def test_different_only_when_intervals_do_not_overlap(study, low, tie):
    edit_summary(study, "digits", "dp2.pp2.1f1b fp32 x4", set_time(21.5, 21.0, 22.0))
    edit_summary(study, "digits", "dp2 fp32 x1", set_time(22.5, low, 23.0))
    edit_summary(study, "digits", "dp2 bf16 x1", set_time(30))
    found = "dp2.pp2.1f1b fp32 x4, 21.5 ms/step (a tie with dp2 fp32 x1)" in line(study, 0)
    assert found is tie


def test_time_is_compared_per_sample(study):
    def halve(summary):
        summary["steps"]["global_batch_size"] //= 2
        set_time(15.0)(summary)

    # Fewer ms per step, but for half the samples.
    edit_summary(study, "digits", "dp2 fp32 x1", halve)
    assert "digits: dp2.pp2.1f1b fp32 x4" in line(study, 0)


def test_speed_up_is_over_serial_of_the_same_precision(study):
    edit_summary(study, "digits", "serial fp32 x1", set_time(40))
    edit_summary(study, "digits", "dp2.pp2.1f1b fp32 x4", set_time(20))
    assert "digits: 2.00x over serial fp32 on 4 ranks, 50 % of ideal" in line(study, 3)


def test_no_serial_run_no_speed_up(study):
    for label in ("serial fp32 x1", "serial fp32 x4"):
        edit_summary(study, "digits", label, lambda s: s.update(status="failed", error=ERROR))
    assert "digits: not measured for fp32: its serial run is failed" in line(study, 3)
    edit(study / "plan.json", lambda plan: plan.update(candidates=[c for c in plan["candidates"] if _is_parallel(c)]))
    assert line(study, 3).count("not measured for fp32: no serial run; add `- {}` to its layouts") == 1


def _is_parallel(candidate) -> bool:
    layout = candidate["layout"]
    return layout.get("dp", 1) * layout.get("pp", 1) * layout.get("tp", 1) > 1


def test_workloads_share_a_reason_but_never_a_figure(energy_study):
    edit_all(energy_study, no_energy("no counter"), "lm")
    edit_all(energy_study, no_energy("no counter"), "mlp")
    said = line(energy_study, 1)
    assert "lm, mlp: not measured: no counter; " in said
    assert said.startswith("Best for energy: digits: dp2 bf16 x1")


def test_no_sensor_is_said_once_with_the_remedy(study):
    said = line(study, 1)
    assert said.count("no readable sensor") == 1
    assert "run on nodes with NVML, RAPL or pm_counters" in said
    assert "J/sample" not in said


def test_energy_and_cost_of_a_measured_study(energy_study):
    found = answered(energy_study)
    assert "digits: dp2 bf16 x1, " in found.lines[1]
    assert "(gpu-board, counter)" in found.lines[1]
    assert "digits: serial bf16 x1, " in found.lines[2]
    assert "per million samples" in found.lines[2]
    assert "nothing: every run was measured in full" in found.lines[4]


def test_the_objective_decides_what_to_use(energy_study):
    edit(energy_study / "plan.json", lambda plan: plan.update(objective="energy"))
    assert answered(energy_study).winners["digits"] == run_of(energy_study, "digits", "dp2 bf16 x1").run_id
    edit(energy_study / "plan.json", lambda plan: plan.update(objective="cost"))
    assert answered(energy_study).winners["digits"] == run_of(energy_study, "digits", "serial bf16 x1").run_id


def test_energies_of_two_scopes_are_never_compared(energy_study):
    edit(energy_study / "plan.json", lambda plan: plan.update(objective="energy"))

    def nothing_used(summary):
        summary["energy"].update(scope="node", energy_j=1e-6)
        summary["energy"]["per_sample_j"]["value"] = 1e-9

    edit_summary(energy_study, "digits", "serial fp32 x1", nothing_used)
    found = answered(energy_study)
    assert "(node, counter), " in found.lines[1]
    assert ", not comparable with dp2 bf16 x1, " in found.lines[1]
    # The tiny number of the other scope does not decide: time does.
    assert found.winners["digits"] == run_of(energy_study, "digits", "dp2.pp2.1f1b bf16 x4").run_id


@pytest.mark.parametrize("change", [{"is_partial": True}, {"coverage": {"nodes": 1, "nodes_expected": 2}}])
def test_partial_energy_is_not_ranked(energy_study, change):
    edit_all(energy_study, lambda s: s["energy"].update(change))
    assert "not measured: some devices were not covered" in line(energy_study, 1)


def test_cost_follows_the_measured_time(energy_study):
    run = run_of(energy_study, "digits", "serial fp32 x1")
    planned = run.candidate["prediction"]
    measured_ms = run.summary.step_time_ms.value
    assert ranking.cost(run).value == pytest.approx(planned["cost"] * measured_ms / planned["step_time_ms"])


def test_an_empty_plan_is_answered(study):
    edit(study / "plan.json", lambda plan: plan.update(candidates=[]))
    found = answered(study)
    assert found.winners == {}
    assert "the plan chose no run" in found.lines[0]
    assert load(study).workloads == ()
