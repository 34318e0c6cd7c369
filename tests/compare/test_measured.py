"""Three small studies, measured for real: the first two are equal, the third waits 7 % longer in every step."""

from __future__ import annotations

import json

import pytest

from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec
from tests.cli.test_mistakes import call
from tests.compare.waits import FACTOR
from tests.mpirun import check, mpirun
from tests.train.test_layouts import SCRIPT

pytestmark = pytest.mark.mpi
NUM_REPEATS = 4


def planned(results, study):
    """A study of one configuration with repeats; the run.json files."""
    runs = [
        Run(
            study=study,
            site="local",
            repeat=number,
            workload=WorkloadSpec(name="waits", entry="tests.compare.waits:build", global_batch_size=8),
            layout=Layout(micro_batch_size=8, accumulation_steps=1),
            recipe=Recipe(),
            resources=Resources(),
            measure=Measure(warmup_steps=5, steps=40, parity_steps=2, metric_samples=0),
            device="cpu",
        )
        for number in range(1, NUM_REPEATS + 1)
    ]
    paths = []
    for run in runs:
        path = results / "runs" / run.run_id / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(run.model_dump_json())
        paths.append(path)
    candidates = [
        {"run_id": run.run_id, "workload": "waits", "repeat": run.repeat, "chosen": True, "refused": None}
        | {key: getattr(run, key).model_dump(mode="json") for key in ("layout", "recipe", "resources")}
        for run in runs
    ]
    (results / "plan.json").write_text(json.dumps({"study": study, "site": "local", "candidates": candidates}))
    return paths


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    directory = tmp_path_factory.mktemp("studies")
    first, again, slow = (planned(directory / name, name) for name in ("first", "again", "slow"))
    in_turn = [path for pair in zip(first, again, strict=True) for path in pair]
    check(mpirun(1, [SCRIPT, *in_turn], 200))
    check(mpirun(1, [SCRIPT, *slow], 100, **{FACTOR: "1.07"}))
    return directory


def test_two_equal_studies_are_not_called_different(studies):
    done = call(studies, "compare", "first", "again", "--fail-if-slower", "5%", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (pair,) = json.loads(done.stdout)["pairs"]
    assert pair["verdict"] == "no difference shown"
    assert pair["step_time_ms"]["low"] < 1 < pair["step_time_ms"]["high"]


def test_seven_percent_are_called_with_their_interval(studies):
    done = call(studies, "compare", "first", "slow", "--fail-if-slower", "5%", "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    (pair,) = json.loads(done.stdout)["pairs"]
    assert pair["verdict"] == "slower"
    assert pair["fails"]
    time = pair["step_time_ms"]
    assert 1 < time["low"] < time["ratio"] < time["high"] < 1.15


def test_a_baseline_file_stands_for_the_results_it_was_made_of(studies):
    written = call(studies, "compare", "first", "--write-baseline", "kept/baseline.json")
    assert written.returncode == 0, written.stderr
    assert (studies / "kept/baseline.json").stat().st_size < 5000
    ratios = []
    for a in ("first", "kept/baseline.json"):
        done = call(studies, "compare", a, "slow", "--json")
        assert done.returncode == 0, "without --fail-if-slower a difference is no failure"
        ratios.append(json.loads(done.stdout)["pairs"])
    assert ratios[0] == ratios[1]
    slow = call(studies, "compare", "kept/baseline.json", "slow", "--fail-if-slower", "5 %")
    assert slow.returncode == 3
    assert "fails the limit of 5 %" in slow.stdout
