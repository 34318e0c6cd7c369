"""Batches of every form are trained on, and each layout computes on them what the serial run computes."""

import json

import pytest

from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.workloads.count_facts import describe
from tests.mpirun import check, mpirun
from tests.train.nested_models import build
from tests.train.parity.many import compute_references
from tests.train.parity.test_planted import MEASURE
from tests.train.test_layouts import SCRIPT, write_runs

DP, MIXED, FULL = {"dp": 2}, {"dp": 2, "accumulation_steps": 2}, {"dp": 2, "shard": "full"}
KINDS = {
    "dict": [MIXED, FULL],
    "keys": [MIXED],
    "nested": [DP, MIXED],
    "detector": [MIXED],
    "padded": [DP, MIXED],
    "texts": [MIXED, FULL],
    "own": [DP, MIXED],
    "masked": [DP, MIXED],
    "stages": [{"pp": 2, "accumulation_steps": 2}],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Summaries by kind, of runs in one launch; three steps, of which the last is of 4 samples."""
    directory = tmp_path_factory.mktemp("nested")
    measure = {**MEASURE, "warmup_steps": 1, "steps": 3, "parity_steps": 3, "metric_samples": 21}
    paths = {}
    for kind, layouts in KINDS.items():
        workload = {"entry": "tests.train.nested_models:build", "args": {"kind": kind}, "global_batch_size": 16}
        workload |= {"name": kind, "last_batch": "keep"}
        recipe = {"data_workers": 1} if kind == "detector" else {"recompute": "full"} if kind == "dict" else {}
        paths[kind] = write_runs(directory, workload, layouts, recipe=recipe, measure=measure)
    everything = [path for each in paths.values() for path in each]
    compute_references(everything)
    check(mpirun(2, [SCRIPT, *everything], 280))
    read = {}
    for kind, each in paths.items():
        read[kind] = [json.loads((path.parent / "summary.json").read_text()) for path in each]
    return read


@pytest.mark.mpi
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_the_serial_run_does(trained, kind):
    for summary in trained[kind]:
        parity = summary["parity"]
        assert (summary["status"], parity["passed"]) == ("completed", True), (summary["run_id"], parity)
        assert parity["max_rel_err"] <= parity["tolerance"] <= 1e-3
        assert parity["steps"] == 3


@pytest.mark.mpi
def test_what_is_told_of_it(trained):
    means = {kind: summaries[0]["parity"]["found"]["mean"] for kind, summaries in trained.items()}
    assert means["keys"] == "the mean over the items that count, by the workload's weight()"
    assert means["texts"] == means["masked"] == "the mean over the items that count, found by measurement"
    assert {means[kind] for kind in ("dict", "nested", "detector", "padded", "own", "stages")} == {
        "the mean over samples"
    }
    # Means over padding differ with the longest text of a batch: a layout is compared with a serial run cut alike.
    assert any("compared with a serial run grouped alike" in each for each in trained["padded"][0]["warnings"])
    assert any("the collate function draws numbers" in each for each in trained["masked"][0]["warnings"])
    assert not any("grouped alike" in each for each in trained["texts"][0]["warnings"])
    metrics = [summary["metric"] for summary in trained["own"]]
    assert all(each["num_samples"] == 21 and each["value"] > 0.2 for each in metrics), metrics


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("dict", "a batch that is a dict"),
        ("own", "a model that returns its loss, and has no blocks that run one after the other"),
        ("padded", "batches of different shapes"),
    ],
)
def test_stages_are_refused_before_anything_starts(kind, words):
    facts: ModelFacts = describe(build(kind))
    assert facts.no_stages == words
