"""What changed between runs that are compared is named at the answer; runs measured alike have no such line."""

from __future__ import annotations

import json

import pytest

from hpc_accel.report.judge.answer import answer
from hpc_accel.report.judge.differences import differences
from hpc_accel.report.load.study_records import load
from tests.report.editing import edit, edit_all, edit_summary, run_of

ODD = ("mlp", "dp2 fp32 x1")


def told(study) -> list[str]:
    return [f"{each.workload}: {each.text}" for each in differences(load(study))]


def line(study) -> str:
    lines = [text for text in answer(load(study)).lines if text.startswith("Not alike")]
    return lines[0] if lines else ""


def test_runs_measured_alike_have_no_line(study):
    assert told(study) == [] and line(study) == ""


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"torch": "9.9"}, "torch 9.9 (not "),
        ({"git": "a" * 40 + "+changes"}, f"the tool's commit {'a' * 12}+changes (not "),
        ({"hpc_accel": "77"}, "hpc-accel 77 (not "),
        ({"cpu": "Abacus"}, "processor Abacus (not "),
        ({"mpi_library": "A 0"}, "MPI library A 0 (not A 1"),
    ],
)
def test_software_and_machine(study, facts, words):
    edit_all(study, lambda s: s["provenance"].update({"git": "b" * 40, "mpi_library": "A 1", "cpu": "Slide rule"}))
    edit_summary(study, *ODD, lambda s: s["provenance"].update(facts))
    [text] = told(study)
    assert text.startswith(f"mlp: dp2 fp32 x1 measured with {words}") and text.endswith("unlike serial fp32 x1")
    assert words in line(study) and "delete their summary.json" in line(study)


def test_boards_and_hosts(study):
    edit_all(study, lambda s: s["provenance"].update(gpus=[{"name": "A100"}]), "mlp")
    edit_summary(study, *ODD, lambda s: s["provenance"].update(gpus=[{"name": "H100"}] * 2))
    edit_summary(study, *ODD, lambda s: s.update(hosts=["elsewhere"]))
    [text] = told(study)
    assert "GPU H100 (not A100)" in text and "host elsewhere (not " in text
    edit_all(study, lambda s: s.update(job_id="1"))
    assert "host" not in told(study)[0], "Slurm gives each job nodes of its own"


def test_what_a_run_does_not_know_is_not_called_different(study):
    edit_summary(study, *ODD, lambda s: s["provenance"].update(torch=None))
    edit_summary(study, *ODD, lambda s: s["provenance"].pop("python", None))
    assert told(study) == []


def test_other_sources_are_other_code(study):
    def with_sources(workload, label, digest):
        # The digest is part of the run's id, so the run is planned and recorded under another.
        run = run_of(study, workload, label)
        edit(run.directory / "run.json", lambda r: r["workload"].update(sources={"mine_model.py": digest}))

    with_sources("mlp", "serial fp32 x1", "1")
    with_sources(*ODD, "2")
    [text] = told(study)
    assert text == (
        "mlp: dp2 fp32 x1 measured with another mine_model.py, unlike serial fp32 x1, "
        "so their times are those of other code"
    )


def test_an_edited_site_file(study):
    for label, digest in (("serial fp32 x1", "1"), ("dp2 fp32 x1", "2")):
        path = run_of(study, "mlp", label).directory / "job.json"
        edit(path, lambda job, digest=digest: job.update(written_from={"slurm/sites/here.yaml": digest}))
    assert "another slurm/sites/here.yaml" in line(study)


def test_many_facts_and_runs_stay_one_line(study):
    facts = {"torch": "9", "numpy": "9", "mpi4py": "9", "hpc_accel": "9", "cpu": "9", "python": "9"}
    edit_all(study, lambda s: s["provenance"].update(dict.fromkeys(facts, "1")), "digits")
    for label in ("dp2 fp32 x4", "tp2 fp32 x4", "pp2.1f1b fp32 x4"):
        edit_summary(study, "digits", label, lambda s: s["provenance"].update(facts))
    [text] = told(study)
    assert "and 2 more, unlike" in text and "and 1 more measured with" in text
    content = json.loads(json.dumps(answer(load(study)).to_json()))
    assert content["lines"]["Not alike"][0]["workload"] == "digits"
