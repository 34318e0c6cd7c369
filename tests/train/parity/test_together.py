"""What acts on samples of all replicas together is the serial run's computation on the whole batch."""

import json

import pytest

from tests.mpirun import check, mpirun
from tests.train.parity.many import compute_references
from tests.train.parity.test_planted import MEASURE
from tests.train.test_layouts import SCRIPT, write_runs

SYNC = {"sync_batch_norm": True}
DP = {"dp": 2, "shard": ["none", "optimizer", "full"]}
UNEQUAL = {"dp": 2, "shares": [12, 4]}
CASES = {
    "normalised": ("batch norm", [DP, UNEQUAL], SYNC, {}),
    "recomputed": ("batch norm", [{"dp": 2}], SYNC | {"recompute": ["full", "selective"]}, {}),
    "options": ("batch norm", [{"dp": 2}], SYNC | {"overlap": [True, False], "channels_last": True}, {}),
    "bf16": ("batch norm", [{"dp": 2, "shard": ["none", "optimizer"]}], SYNC | {"precision": "bf16"}, {}),
    "compiled": ("batch norm", [{"dp": 2}], SYNC | {"compile": True}, {}),
    "gloo": ("batch norm", [{"dp": 2}], SYNC, {"backend": "gloo"}),
    "accumulated": ("batch norm", [{"dp": 2, "accumulation_steps": 2}], SYNC, {}),
    "together": ("together", [DP, UNEQUAL], {}, {}),
    "both": ("both together", [DP], SYNC, {}),
    "half": ("pairs with norm", [{"dp": 2}], SYNC, {}),
}

STAGED = {"dp": 2, "pp": 2, "accumulation_steps": 2}
SCHEDULES = ["gpipe", "1f1b", "interleaved_1f1b", "looped_bfs"]
ON_FOUR = {
    "staged": ("deep norm", [STAGED | {"schedule": SCHEDULES}], SYNC, {}),
    "at once": ("both together", [{"dp": 2, "pp": 2, "schedule": "gpipe", "accumulation_steps": 1}], SYNC, {}),
    "four": ("both together", [{"dp": 4}], SYNC, {}),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Summaries by case, of runs in one launch."""
    return summaries_of(CASES, 2, tmp_path_factory.mktemp("together"))


@pytest.fixture(scope="module")
def on_four(tmp_path_factory):
    """The same on four ranks."""
    return summaries_of(ON_FOUR, 4, tmp_path_factory.mktemp("four"))


def summaries_of(cases, num_ranks, directory):
    paths = {}
    for name, (kind, layouts, recipe, study) in cases.items():
        workload = {"entry": "tests.train.parity.models:build", "args": {"kind": kind}, "global_batch_size": 16}
        workload["name"] = name.replace(" ", "-")
        precision = (recipe.get("precision", "fp32"),)
        paths[name] = write_runs(directory, workload, layouts, precision, recipe=recipe, measure=MEASURE, **study)
    everything = [path for each in paths.values() for path in each]
    compute_references(everything)
    check(mpirun(num_ranks, [SCRIPT, *everything], 280))
    return {
        name: [json.loads((path.parent / "summary.json").read_text()) for path in each] for name, each in paths.items()
    }


@pytest.mark.mpi
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("accumulated", "half")])
def test_it_is_the_whole_batch(trained, name):
    for summary in trained[name]:
        parity = summary["parity"]
        assert (summary["status"], parity["passed"]) == ("completed", True), (summary["run_id"], parity)
        assert "whole global batch" in parity["reference"]
        assert not any("samples; serial over" in each for each in summary["warnings"])
        layout = parity["found"]["phases"][0]
        assert max(layout["gradient_distances"]) <= 1e-5
        for mine, wanted in zip(layout["losses"], layout["reference_losses"], strict=True):
            assert mine == pytest.approx(wanted, rel=1e-5)


@pytest.mark.mpi
def test_with_accumulation_it_is_the_pass_of_all_replicas(trained):
    [summary] = trained["accumulated"]
    assert (summary["status"], summary["parity"]["passed"]) == ("completed", True), summary["parity"]
    [told] = [each for each in summary["warnings"] if "serial over" in each]
    assert "BatchNorm2d normalises over 8 samples, those of 2 replicas together; serial over 16" in told


@pytest.mark.mpi
def test_a_loss_that_is_not_gathered_is_named(trained):
    [summary] = trained["half"]
    assert summary["status"] == "wrong"
    assert "it compares 8 samples with each other, the serial run 16" in summary["parity"]["reason"]
    assert "gather_outputs=True" in summary["parity"]["reason"]


@pytest.mark.mpi
def test_stages_of_replicas_wait_for_each_other_in_step(on_four):
    for summary in on_four["staged"]:
        assert (summary["status"], summary["parity"]["passed"]) == ("completed", True), summary["parity"]
        assert any("8 samples, those of 2 replicas together" in each for each in summary["warnings"])
    for summary in on_four["at once"] + on_four["four"]:
        assert (summary["status"], summary["parity"]["passed"]) == ("completed", True), summary["parity"]
        assert "whole global batch" in summary["parity"]["reference"]
