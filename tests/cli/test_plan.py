"""`hpc-accel plan`: whose results a directory holds, and where the machine was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc_accel.commands import plan_study, predicted_lines
from hpc_accel.errors import ConfigError

STUDY = "workload: {name: mlp}\nlayouts: [{dp: %s}]\nresources: {ranks_per_node: 4}\nmeasure: {steps: 4}\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.yaml").write_text(STUDY % "[1, 2]")
    machine = json.loads((Path(__file__).parent / "hardware.json").read_text())
    Path("hardware.json").write_text(json.dumps(machine))
    return tmp_path


def plan(study):
    return plan_study(Path(study), Path("hardware.json"), Path("results/mine/plan.json"))


def test_two_studies_of_one_name_do_not_share_results(here):
    plan("a/mine.yaml")
    plan("a/mine.yaml")
    with pytest.raises(ConfigError, match=r"holds the results of .*a/mine\.yaml"):
        plan("b/mine.yaml")
    (here / "a/mine.yaml").rename(here / "mine.yaml")
    plan("mine.yaml")  # the study was moved, and its results stay its own


def test_a_machine_of_another_site_is_refused_as_ones_own_and_told_where_it_is_named(here):
    machine = json.loads(Path("hardware.json").read_text())
    Path("hardware.json").write_text(json.dumps({**machine, "site": "elsewhere"}))
    content = plan("a/mine.yaml")
    assert content["notes"][0].startswith("hardware.json is of site 'elsewhere'")
    results = Path("results/mine")
    assert (results / "plan.json").exists()
    Path("hardware.json").rename(results / "hardware.json")
    with pytest.raises(ConfigError, match="of site 'elsewhere' for a study at site 'local'"):
        plan_study(Path("a/mine.yaml"), results / "hardware.json", results / "plan.json")


def test_combinations_that_cannot_work_are_listed(here):
    Path("a/mine.yaml").write_text(STUDY % "[1, 3, 2]")
    content = plan("a/mine.yaml")
    refused = [each for each in content["candidates"] if each["refused"]]
    assert [each["layout"]["dp"] for each in refused] == [3]
    assert [each["run"]["layout"]["dp"] for each in content["candidates"] if each["chosen"]] == [1, 2]


def test_a_study_is_planned_for_a_machine_that_is_not_here(here):
    gpus = (STUDY % "[1, 2]").replace("ranks_per_node: 4", "ranks_per_node: 4, gpus_per_node: 4")
    Path("a/mine.yaml").write_text(gpus)
    content = plan_study(Path("a/mine.yaml"), "h100-sxm", Path("results/mine/plans/h100-sxm.json"))
    assert content["notes"][0].startswith("h100-sxm is of site 'h100-sxm'")
    chosen = [each for each in content["candidates"] if each["chosen"]]
    assert all(each["prediction"]["step_time_ms"] > 0 for each in chosen)
    first, second = predicted_lines(chosen)
    assert first.startswith("mlp-") and " ms, " in first and "GB per rank" in second


def test_a_misspelt_machine_is_told_its_name(here):
    with pytest.raises(ConfigError) as caught:
        plan_study(Path("a/mine.yaml"), "h100sxm", Path("results/mine/plan.json"))
    assert caught.value.value == "--hardware h100sxm" and caught.value.remedy == "did you mean h100-sxm?"
