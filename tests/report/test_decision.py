"""What a decision rests on: how sure the best is, what it saves, why others are slower, what was refused."""

from __future__ import annotations

import pytest

from hpc_accel.report.judge import answer, savings, why
from hpc_accel.report.judge.certainty import certainty
from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import cards, run_table
from hpc_accel.report.show.refusals import refusals
from hpc_accel.report.write import write
from tests.report.editing import edit, edit_all, edit_summary, run_of, set_time


def sure(study, workload="digits"):
    records = load(study)
    return certainty(answer.best_of(records, workload), records.of(workload))


def card_of(study, workload):
    return next(card for card in cards.cards(load(study)) if card["workload"] == workload)


def test_a_clear_lead_says_how_far_the_next_is_behind(study):
    edit_summary(study, "mlp", "serial fp32 x1", set_time(10, 9.5, 10.5))
    edit_summary(study, "mlp", "dp2 fp32 x1", set_time(15, 14, 16))
    found = sure(study, "mlp")
    assert found.level == "clear"
    assert found.why == ("The next, dp2 fp32 x1, needs 50 % more (at least 33 %): the 95 % intervals do not overlap.",)


def test_a_tie_is_no_certainty(study):
    edit_summary(study, "mlp", "serial fp32 x1", set_time(10, 9.5, 10.5))
    edit_summary(study, "mlp", "dp2 fp32 x1", set_time(10.2, 9.8, 10.6))
    assert sure(study, "mlp").level == "tie"
    assert sure(study, "mlp").why == ("A tie with dp2 fp32 x1: their 95 % intervals overlap.",)


def test_the_only_ranked_run_is_alone_and_not_sure(study):
    for run in load(study).of("mlp"):
        if run.label not in ("serial fp32 x1", "dp2 fp32 x1"):
            (run.directory / "summary.json").unlink()
    edit_summary(study, "mlp", "dp2 fp32 x1", lambda summary: summary.update(status="wrong"))
    num_others = len(load(study).of("mlp")) - 1
    found = sure(study, "mlp")
    assert found.level == "alone"
    missing = f"{num_others - 1} missing and 1 wrong" if num_others > 1 else "1 wrong"
    assert found.why[0].endswith(f"{missing}.") and f"of {num_others} more" in found.why[0]
    assert card_of(study, "mlp")["level_words"] == "Alone"
    write(study)
    assert '<span class="status even">Alone</span>' in (study / "report.html").read_text()


def test_each_row_of_a_column_that_no_run_has_keeps_its_own_reason(study):
    data = run_table.to_json(rows := run_table.table(load(study)), {})
    at = next(at for at, column in enumerate(run_table.COLUMNS) if not any(told[at][0].value for _, told in rows))
    column = data["columns"][at]
    shown = [data["reasons"][(column["reasons"].get(row) or column["reason"]) - 1] for row in range(len(rows))]
    assert shown == [told[at][0].reason for _, told in rows]
    assert len(set(shown)) > 1


def test_most_runs_disturbed_is_doubt_though_the_lead_is_clear(study):
    edit_all(study, lambda s: s["warnings"].append("disturbed: other processes took 40% of the CPUs"), "lm")
    found = sure(study, "lm")
    assert found.level == "doubtful"
    assert found.why[-1] == "Other processes disturbed 5 of 5 runs, this one too."
    assert len(found.warnings) == 1


def test_savings_of_the_default_training_and_against_whom(energy_study):
    edit_summary(energy_study, "lm", "serial fp32 x4", set_time(400))
    edit_summary(energy_study, "lm", "dp2 fp32 x4", set_time(180))
    edit_summary(energy_study, "lm", "dp2.pp2.1f1b fp32 x4", set_time(100))
    takes, serial, plain = card_of(energy_study, "lm")["saved"]["rows"]
    # 100 epochs of 1000 samples in steps of 16.
    assert takes["amounts"]["time"] == "10.4 min"
    assert serial["amounts"]["time"] == "31.2 min less"
    assert serial["detail"] == "serial fp32 x4: 4.00 times as fast"
    assert plain["amounts"]["time"] == "8.33 min less"
    assert plain["amounts"]["cost"].endswith("more")  # four ranks cost more than two
    assert {"time", "energy", "cost"} == set(plain["amounts"])


def test_the_best_one_rank_run_saves_nothing_against_itself(study):
    rows = card_of(study, "mlp")["saved"]["rows"]
    assert rows[1]["is_itself"]
    assert rows[1]["amounts"] == {}


def test_energies_of_two_scopes_are_not_subtracted(energy_study):
    edit_summary(energy_study, "lm", "serial fp32 x4", lambda s: s["energy"].update(scope="node"))
    _, serial, plain = card_of(energy_study, "lm")["saved"]["rows"]
    assert "energy" not in serial["amounts"]
    assert "energy" in plain["amounts"]


def test_sharded_runs_are_not_plain_data_parallel(study):
    run = run_of(study, "lm", "dp2 fp32 x4")
    assert savings.is_plain_data_parallel(run)
    edit(run.directory / "run.json", lambda content: content["layout"].update(shard="full"))
    assert not savings.is_plain_data_parallel(run_of(study, "lm", "dp2 fp32 x4"))
    rows = card_of(study, "lm")["saved"]["rows"]
    assert rows[2]["detail"] == savings.NO_PLAIN


def test_the_phase_that_costs_most_is_named(study):
    def stretch(summary):
        set_time(600)(summary)
        summary["phases_ms"]["pipeline_wait"]["value"] += 300

    edit_summary(study, "lm", "pp2.1f1b fp32 x4", stretch)
    records = load(study)
    fastest = why.fastest_of(records.runs)
    run = run_of(study, "lm", "pp2.1f1b fp32 x4")
    told = why.words(run, fastest)
    assert told.startswith("pipeline wait +3")
    best = fastest["lm"]
    slower = why.slower_by_ms(run, fastest).value
    assert slower == pytest.approx(600 - best.summary.step_time_ms.value)
    assert why.words(best, fastest) == ""
    assert why.slower_by_ms(best, fastest).value == 0


def test_everything_refused_stands_in_one_table(study):
    edit(study / "plan.json", lambda plan: plan.update(searches=[
        {"workload": "lm", "num_enumerated": 900, "num_feasible": 20, "num_simulated": 5,
         "refused": [{"rule": "memory fits", "count": 880, "first": "dp1 fp32"}]}]))  # fmt: skip
    found = {(each.stage, each.why): each for each in refusals(load(study))}
    stages = [each.stage for each in found.values()]
    assert sorted(stages) == sorted(
        [
            "run wrong",
            "run failed",
            "run missing",
            "breaks a rule",
            "breaks a rule",
            "left by the search",
            "not measured",
        ]
    )
    assert found["left by the search", "memory fits"].count == 880
    write(study)
    html = (study / "report.html").read_text()
    table = html.split('<section id="refused">')[1].split("</section>")[0]
    assert table.count("<tr>") == 1 + 7
    assert "lower the learning rate" in table


def test_the_text_of_the_script_is_on_the_card(study):
    records = load(study)
    run = answer.best_of(records, "mlp").run
    (run.directory / "job.sbatch").write_text("#!/bin/bash\n#SBATCH --nodes=1\necho \x1b[31m<b>\n")
    assert card_of(study, "mlp")["script"] == "#!/bin/bash\n#SBATCH --nodes=1\necho <b>"
    write(study)
    assert "echo &lt;b&gt;" in (study / "report.html").read_text()
