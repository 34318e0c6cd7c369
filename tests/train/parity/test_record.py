"""What the record says where nothing could be compared, and where the model itself cannot be repeated."""

from pathlib import Path

import pytest

from hpc_accel.report.load.run_status import compared
from tests.mpirun import check, mpirun
from tests.records import summary_in
from tests.train.parity.test_planted import MEASURE, SCRIPT
from tests.train.test_layouts import write_runs

MODELS = "tests.train.parity.models"
KINDS = {
    "too large": ({"name": "digits", "args": {"width": 8}}, {"dp": 2, "shard": "full"}, "out_of_memory"),
    "unrepeatable": ({"name": "unrepeatable", "entry": f"{MODELS}:unrepeatable"}, {"dp": 2}, ""),
    "pairs": ({"name": "pairs", "entry": f"{MODELS}:build", "args": {"kind": "pairs"}}, {"dp": 2}, ""),
    "exact": ({"name": "gathered", "entry": f"{MODELS}:gathered"}, {"dp": 2}, ""),
    "not asked": ({"name": "mlp"}, {"dp": 2}, ""),
}


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    """By kind, from one launch."""
    directory, paths = tmp_path_factory.mktemp("record"), {}
    for kind, (workload, layout, fault) in KINDS.items():
        measure = MEASURE | {"metric_samples": 16} | ({"parity_steps": 0} if kind == "not asked" else {})
        [path] = write_runs(directory, {"global_batch_size": 16, **workload}, [layout], measure=measure)
        paths[kind] = f"{fault}={path}"
    check(mpirun(2, [SCRIPT, *paths.values()], 200, HPC_ACCEL_TESTING="1"))
    return {kind: summary_in(Path(path.partition("=")[2]).parent) for kind, path in paths.items()}


@pytest.mark.mpi
def test_a_model_too_large_for_one_device_has_a_record_without_parity(summaries):
    summary = summaries["too large"]
    assert summary.status == "completed"
    assert summary.step_time_ms.value > 0
    assert summary.metric.value is not None
    parity = summary.parity
    assert (parity.steps, parity.passed, parity.max_rel_err) == (0, False, None)
    assert parity.reason.endswith(
        "does not fit into the memory of one cpu device: CUDA out of memory. Tried to allocate 2.00 GiB."
    )
    assert (summary.flops.per_step.value, summary.losses.reference) == (None, ())
    assert "does not fit" in summary.flops.mfu.reason
    assert compared(summary.parity)[0] == "unchecked", "never ranked beside runs that were compared"
    for held in (summary.memory.reserved_bytes, summary.memory.device_used_bytes):
        assert (held.value, held.reason) == (None, "the run computes on CPUs")


@pytest.mark.mpi
def test_data_that_no_seed_fixes_are_told_and_not_called_wrong(summaries):
    parity = summaries["unrepeatable"].parity
    assert (parity.steps, parity.passed) == (0, False)
    assert "other weights or other data in another process" in parity.reason


@pytest.mark.mpi
def test_a_loss_of_the_micro_batch_does_not_pass_in_silence(summaries):
    summary = summaries["pairs"]
    assert summary.status == "wrong"
    assert "it compares 8 samples with each other, the serial run 16" in summary.parity.reason
    assert "grouped alike" in summary.parity.reason
    assert summary.parity.max_rel_err < 1e-5, "as the serial run that is grouped alike"


@pytest.mark.mpi
def test_a_loss_that_gathers_by_itself_passes(summaries):
    parity = summaries["exact"].parity
    assert (summaries["exact"].status, parity.passed) == ("completed", True), parity
    assert parity.reference.startswith("the serial run of the whole global batch")


@pytest.mark.mpi
def test_no_steps_to_compare_is_told_and_the_mean_is_measured_all_the_same(summaries):
    summary = summaries["not asked"]
    assert (summary.status, summary.parity.steps) == ("completed", 0)
    assert summary.parity.reason == "the study sets parity_steps: 0"
    assert summary.parity.found.mean == "the mean over samples"
