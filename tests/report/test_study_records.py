"""Broken, missing and foreign records: listed with what to do, never a crash, never ranked."""

from __future__ import annotations

import html
import json

import pytest

from hpc_accel.errors import DataError
from hpc_accel.record.text import clean
from hpc_accel.report.load.study_records import load
from hpc_accel.report.write import write
from tests.report.editing import edit, edit_all, edit_summary, row_of, run_of

DP2 = ("digits", "dp2 fp32 x1")


def test_every_chosen_run_is_listed_with_its_status(made):
    records = load(made)
    assert len(records.runs) == 25
    by_status = {run.status: run.label for run in records.runs if not run.counts}
    expected = {"wrong": "tp2 bf16 x4", "missing": "pp2.gpipe bf16 x4", "failed": "dp2.pp2.1f1b bf16 x4"}
    assert by_status == expected
    assert [len(records.refused), len(records.left_out)] == [2, 1]
    missing = next(run for run in records.runs if run.status == "missing")
    assert "log.txt" in missing.remedy
    assert "study=studies/demo.yaml" in missing.remedy


@pytest.mark.parametrize(
    "content", [b"", b'{"run_id": "x", "sta', b"\0\0\0\0", b"[1, 2]", b"\xff\xfe{}", b"[" * 100_000]
)
def test_a_broken_summary_makes_a_missing_run(study, content):
    path = run_of(study, *DP2).directory / "summary.json"
    path.write_bytes(content)
    broken = run_of(study, *DP2)
    assert broken.status == "missing"
    assert any("summary.json" in problem for problem in broken.problems)
    assert write(study).num_ranked == 21


def test_a_summary_of_another_run_is_not_used(study):
    other = run_of(study, "digits", "serial fp32 x1").directory / "summary.json"
    (run_of(study, *DP2).directory / "summary.json").write_text(other.read_text())
    run = run_of(study, *DP2)
    assert run.status == "missing"
    assert "belongs to run 'digits-serial" in run.problems[0]


@pytest.mark.parametrize("value", [0, -3.0, None, "fast", True])
def test_a_step_time_that_is_none_makes_no_record(study, value):
    edit_summary(study, *DP2, lambda s: s["step_time_ms"].update(value=value))
    run = run_of(study, *DP2)
    assert (run.status, run.counts, run.has_record) == ("missing", False, False)
    assert "step_time_ms" in run.problems[0]


@pytest.mark.parametrize("word", ["NaN", "Infinity", "1e999", "1" + "0" * 400])
def test_a_number_that_no_computer_measures_makes_no_record(study, word):
    path = run_of(study, *DP2).directory / "summary.json"
    content = json.loads(path.read_text())
    content["memory"]["peak_memory_bytes"]["value"] = "HERE"
    path.write_text(json.dumps(content).replace('"HERE"', word))
    assert "memory.peak_memory_bytes" in run_of(study, *DP2).problems[0]
    write(study)


@pytest.mark.parametrize(
    ("parity", "status"),
    [
        ({"passed": False, "steps": 5, "reason": "losses differ"}, "wrong"),
        ({"passed": False, "steps": 0, "reason": "the study sets parity_steps: 0"}, "unchecked"),
        ({"passed": None, "steps": 5}, "missing"),
        ({"passed": False, "steps": 5, "reason": None}, "missing"),
    ],
)
def test_a_completed_run_counts_only_with_parity(study, parity, status):
    edit_summary(study, *DP2, lambda s: s["parity"].update(parity))
    run = run_of(study, *DP2)
    assert (run.status, run.counts) == (status, False)
    assert run.remedy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 1}, "summary.json has format 1, this version reads format 5"),
        ({"format": None}, "has format None"),
        ({"status": "great"}, "status: Input should be 'completed'"),
        ({"bubble_fraction": {"value": None, "unit": "1", "reason": ""}}, "bubble_fraction: "),
        ({"bubble_fraction": {"value": 0.1, "unit": "ms"}}, "bubble_fraction.unit: "),
        ({"bubble_reason": "no pipeline"}, "bubble_reason: Extra inputs are not permitted"),
    ],
)
def test_a_record_that_is_none_says_what_is_wrong_with_it(study, change, said):
    edit_summary(study, *DP2, lambda s: s.update(change))
    run = run_of(study, *DP2)
    assert run.status == "missing"
    assert said in run.problems[0]
    assert run.remedy
    write(study)
    assert said in html.unescape((study / "report.html").read_text())


def test_a_run_id_cannot_lead_out_of_the_study(study):
    secret = study.parent / "elsewhere"
    secret.mkdir()
    (secret / "summary.json").write_text(json.dumps({"run_id": "../../elsewhere", "status": "completed"}))
    edit(study / "plan.json", lambda plan: plan["candidates"][0].update(run_id="../../elsewhere"))
    run = load(study).runs[0]
    assert run.status == "missing"
    assert not run.has_record


def test_everything_at_once_of_the_wrong_kind_is_survived(study):
    edit_all(
        study,
        lambda s: [s.update({key: [None, {"x": 1}]}) for key in list(s) if key not in ("format", "run_id", "status")],
    )
    answer = write(study)
    assert answer.num_ranked == 0
    assert "no run counts" in answer.lines[0]


def test_a_study_without_hardware_or_any_record_still_reports(study):
    (study / "hardware.json").unlink()
    for path in study.glob("runs/*/*"):
        path.unlink()
    answer = write(study)
    assert answer.num_ranked == 0
    assert "25 runs missing" in answer.lines[4]
    assert "hardware.json is missing" in (study / "report.html").read_text()


def test_without_a_plan_there_is_no_report(tmp_path):
    with pytest.raises(DataError, match=r"plan\.json is missing"):
        write(tmp_path)


def test_equal_labels_are_told_apart(study):
    def double(plan):
        twin = json.loads(json.dumps(plan["candidates"][0]))
        twin["run_id"] = "digits-serial-fp32-a1-00abcdef"
        plan["candidates"].append(twin)

    edit(study / "plan.json", double)
    labels = [run.label for run in load(study).runs if run.workload == "digits"]
    assert len(set(labels)) == len(labels) == 19
    assert "serial fp32 x1 #cdef" in labels


def test_control_characters_end_at_the_door():
    assert clean("\x1b[31mred\x1b[0m \x1b]0;title\x07x\0y\x9bz\n") == "red xyz\n"
    assert clean("a" * 9000).endswith("... (cut)")
    assert clean("\udcff") == "?"


def test_control_characters_in_a_record_end_where_it_is_read(study):
    evil = "\x1b[31mred\x1b[0m \x1b]0;title\x07x\0y\x9bz"
    edit_summary(study, *DP2, lambda s: s.update(warnings=[evil], hosts=[evil], provenance={evil: [evil]}))
    edit_summary(study, *DP2, lambda s: s["energy"].update(reason=evil + "a" * 9000))
    summary = run_of(study, *DP2).summary
    assert summary.warnings == summary.hosts == ("red xyz",)
    assert summary.provenance == {"red xyz": ["red xyz"]}
    assert len(summary.energy.reason) <= 4000


def test_a_failed_pipelines_row_says_what_its_record_says(study):
    row = row_of(study, "digits", "dp2.pp2.1f1b bf16 x4")
    assert row["status"] == "failed"
    for column in ("bubble_fraction", "peak_memory_bytes", "comm_exposed_ms", "mfu", "energy_j"):
        assert row[f"{column}_reason"] == "no result: loss is NaN at step 12", column
