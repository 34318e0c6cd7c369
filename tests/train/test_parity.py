"""What is compared with the serial run, and what the record says where there is none."""

from pathlib import Path

import pytest

from hpc_accel.report.load.run_status import compared
from tests.mpirun import ROOT, check, mpirun
from tests.records import summary_in
from tests.train.test_layouts import write_runs


def record_of(script: str, path: Path) -> dict:
    check(mpirun(2, [ROOT / "tests/train" / script, path], 100))
    return summary_in(path.parent)


@pytest.mark.mpi
def test_a_model_too_large_for_one_device_has_a_record_without_parity(tmp_path):
    [path] = write_runs(tmp_path, {"name": "digits", "args": {"width": 8}}, [{"dp": 2, "shard": "full"}])
    summary = record_of("too_large.py", path)
    assert summary.status == "completed"
    assert summary.step_time_ms.value > 0
    assert summary.metric.value is not None, "evaluated before the model is let go"
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
def test_no_steps_to_compare_is_told_as_before(tmp_path):
    measure = {"warmup_steps": 1, "steps": 2, "parity_steps": 0, "metric_samples": 0}
    [path] = write_runs(tmp_path, {"name": "mlp"}, [{"dp": 2}], measure=measure)
    summary = record_of("many.py", path)
    assert (summary.status, summary.parity.steps) == ("completed", 0)
    assert summary.parity.reason == "the study sets parity_steps: 0"
