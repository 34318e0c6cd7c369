"""Studies on disk, baselines that are none, and mistakes on the command line: value, rule, remedy."""

from __future__ import annotations

import json
import shutil

import pytest

from hpc_accel.compare.baseline import read_side, write_baseline
from hpc_accel.compare.judge import compare
from hpc_accel.errors import DataError, UsageError
from hpc_accel.report.load.study_records import load
from tests.cli.test_mistakes import call
from tests.report.make_study import make_study


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    directory = tmp_path_factory.mktemp("results")
    make_study(directory / "a", energy=True)
    shutil.copytree(directory / "a", directory / "b")
    return directory


def test_a_study_is_compared_with_itself(results):
    found = compare(read_side(results / "a"), read_side(results / "b"))
    assert {pair.time.value for pair in found.pairs if not pair.time.reason.startswith("in ")} == {1.0}
    assert not (found.found.only_a or found.found.only_b or found.found.differences)
    problems = {pair.a.problem for pair in found.pairs if pair.a.problem}
    assert any("wrong: losses differ" in each for each in problems)
    assert any("loss is NaN" in each for each in problems)
    assert any("missing" in each for each in problems)


def test_a_baseline_is_read_as_it_was_written(results, tmp_path):
    side = read_side(results / "a")
    write_baseline(side, tmp_path / "base.json")
    assert read_side(tmp_path / "base.json") == side
    write_baseline(side, tmp_path / "base.json")


def test_one_run_of_each_cannot_fail_and_cannot_pass(results):
    done = call(results, "compare", "a", "b", "--fail-if-slower", "5%")
    assert done.returncode == 4, done.stderr
    assert "it is not known" in done.stdout.splitlines()[0]


@pytest.mark.parametrize(("workloads", "num_gone"), [(("digits",), 1), (("lm",), 100)], ids=str)
def test_a_run_that_is_gone_from_b_is_its_pair_and_cannot_pass(results, tmp_path, workloads, num_gone):
    shutil.copytree(results / "a", tmp_path / "b")
    runs = [run for run in load(tmp_path / "b").runs if run.workload in workloads and run.counts]
    for run in runs[-num_gone:]:
        shutil.rmtree(run.directory)
    found = compare(read_side(results / "a"), read_side(tmp_path / "b"))
    assert not (found.found.only_a or found.found.only_b)
    gone = [pair for pair in found.pairs if "missing" in pair.b.problem and "missing" not in pair.a.problem]
    assert len(gone) == len(runs[-num_gone:])
    assert all(pair in found.unknown for pair in gone)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a"], 64, "only a"),
        (["a", "nowhere"], 64, "nowhere is not there"),
        (["a", "empty"], 65, "plan.json"),
        (["a", "text.json"], 65, "not valid JSON"),
        (["a", "a/plan.json"], 65, "is no baseline file"),
        (["a", "newer.json"], 65, "has format 2"),
        (["a", "edited.json"], 65, "configurations"),
        (["a", "b", "--fail-if-slower", "5"], 64, "write 5%"),
        (["a", "b", "--fail-if-slower", "-5%"], 64, "write 5%"),
        (["a", "b", "--write-baseline", "c.json"], 64, "--write-baseline"),
        (["a", "--write-baseline", "a/plan.json"], 64, "is there and is no baseline"),
        (["a", "other.json"], 65, "no configuration in common"),
    ],
    ids=str,
)
def test_a_mistake_has_value_rule_and_remedy(results, arguments, code, said):
    (results / "empty").mkdir(exist_ok=True)
    (results / "text.json").write_text("not JSON")
    side = read_side(results / "a")
    content = side.model_dump(mode="json")
    (results / "newer.json").write_text(json.dumps({**content, "format": 2}))
    (results / "edited.json").write_text(json.dumps({**content, "configurations": 3}))
    for each in content["configurations"]:
        each["computes"]["workload"]["name"] = "another"
    (results / "other.json").write_text(json.dumps(content))
    done = call(results, "compare", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stderr
    assert "rule:" in done.stderr
    assert "remedy:" in done.stderr


def test_broken_files_raise_for_people(results, tmp_path):
    with pytest.raises(UsageError):
        read_side(tmp_path / "none")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError):
        read_side(tmp_path / "list.json")
