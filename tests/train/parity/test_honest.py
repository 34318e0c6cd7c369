"""Models of kinds that people train agree with the serial run, in every way to divide them that suits them."""

import json

import pytest

from tests.mpirun import check, mpirun
from tests.train.parity.many import compute_references
from tests.train.parity.test_planted import MEASURE
from tests.train.test_layouts import SCRIPT, write_runs

DP, MIXED, PP = {"dp": 2}, {"dp": 2, "accumulation_steps": 2}, {"pp": 2, "accumulation_steps": 2}
FULL = {"dp": 2, "shard": "full"}
KINDS = {
    "dropout": [DP, PP, FULL],
    "attention": [DP, MIXED],
    "reconstructed": [DP, MIXED],
    "batch norm": [DP, PP],
    "augmented": [DP, MIXED],
    "smoothed": [MIXED],
    "class weights": [DP, PP],
    "double": [DP, FULL],
    "halves": [DP, MIXED],
    "tokens": [MIXED, PP, FULL],
    "total": [MIXED],
    "spectral": [MIXED],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Summaries by kind, of runs in one launch."""
    directory = tmp_path_factory.mktemp("honest")
    paths = {}
    for kind, layouts in KINDS.items():
        workload = {"entry": "tests.train.parity.models:build", "args": {"kind": kind}, "global_batch_size": 16}
        workload |= {"name": kind.replace(" ", "-"), "last_batch": "keep" if kind == "tokens" else "drop"}
        recipe = {"data_workers": 1} if kind == "augmented" else {}
        paths[kind] = write_runs(directory, workload, layouts, recipe=recipe, measure=MEASURE)
    workload = {"name": "recomputed", "entry": "tests.train.parity.models:build", "global_batch_size": 16}
    for kind in ("batch norm", "spectral"):
        workload |= {"args": {"kind": kind}, "name": f"again-{kind.split()[0]}"}
        recipe = {"recompute": ["full", "selective"]}
        paths[f"{kind} again"] = write_runs(directory, workload, [DP, MIXED], recipe=recipe, measure=MEASURE)
    both = {"entry": "tests.train.parity.models:build", "args": {"kind": "dropout"}, "global_batch_size": 16}
    paths["bf16"] = write_runs(directory, {"name": "bf16", **both}, [DP, PP, FULL], ("bf16",), measure=MEASURE)
    everything = [path for each in paths.values() for path in each]
    compute_references(everything)
    check(mpirun(2, [SCRIPT, *everything], 280))
    read = {
        kind: [json.loads((path.parent / "summary.json").read_text()) for path in each] for kind, each in paths.items()
    }
    return read


@pytest.mark.mpi
@pytest.mark.parametrize("kind", [*KINDS, "batch norm again", "spectral again", "bf16"])
def test_it_passes(trained, kind):
    for summary in trained[kind]:
        parity = summary["parity"]
        assert (summary["status"], parity["passed"]) == ("completed", True), (summary["run_id"], parity)
        assert parity["max_rel_err"] <= parity["tolerance"] <= 0.03


@pytest.mark.mpi
def test_what_belongs_to_the_micro_batch_is_told(trained):
    told = [summary["warnings"] for summary in trained["batch norm"]]
    for warnings in told:
        assert any("BatchNorm2d normalises over 8 samples; serial over 16" in each for each in warnings), warnings
    assert not any("samples; serial over" in each for summary in trained["dropout"] for each in summary["warnings"])


@pytest.mark.mpi
def test_the_mean_is_named(trained):
    def mean(kind):
        return trained[kind][0]["parity"]["found"]["mean"]

    assert mean("dropout") == mean("smoothed") == "the mean over samples"
    assert mean("tokens") == mean("class weights") == "the mean over the items that count, found by measurement"


@pytest.mark.mpi
def test_the_arithmetic_is_that_of_the_weights(trained):
    phases = trained["halves"][0]["parity"]["found"]["phases"]
    assert [each["arithmetic"] for each in phases] == ["fp32", "fp32, weights bfloat16"]
    assert trained["halves"][0]["parity"]["found"]["recipe_effect"] > 1e-4
    assert [each["arithmetic"] for each in trained["double"][0]["parity"]["found"]["phases"]] == ["fp64"]
    assert trained["double"][1]["parity"]["max_rel_err"] < 1e-12, "FSDP adds up in fp64, too"
