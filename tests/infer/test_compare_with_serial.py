"""The comparison with the serial model: its memory is made free first, and without room it is unknown, not lost."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.data import TensorDataset

from hpc_accel.infer import compare_with_serial as comparison
from hpc_accel.infer.compare_with_serial import compared
from hpc_accel.infer.model import build_inference_model
from hpc_accel.infer.outputs import Answers, serial_answers
from hpc_accel.infer.record import _with_cache
from hpc_accel.parallel.mesh import rank_coordinates
from hpc_accel.record.energy import TokenEnergy
from hpc_accel.record.figure import Estimate, Fraction, Joules
from hpc_accel.record.inference import Generation
from hpc_accel.record.parts import Parity
from hpc_accel.study.recipe import Recipe
from hpc_accel.workloads.workload import Workload
from tests.infer.make_runs import served_run, write_runs
from tests.mpirun import ROOT, check, mpirun
from tests.records import summary_in

CPU = torch.device("cpu")


def workload():
    torch.manual_seed(1)
    return Workload(
        model=nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5)),
        loss=nn.functional.cross_entropy,
        dataset=TensorDataset(torch.randn(40, 16), torch.arange(40) % 5),
    )


def session(recipe):
    made = workload()
    run = served_run(batch_size=8, recipe=recipe, min_top1_agreement=0.0)
    served = build_inference_model(run, made, None, rank_coordinates(run.layout, 0, "cpu"), CPU)
    return SimpleNamespace(run=run, directory=None, device=CPU, model=served, workload=made)


def test_weights_are_given_back_before_a_serial_model_is_built_and_those_come_one_at_a_time(monkeypatch):
    made = session(Recipe(prune="magnitude"))
    answered = serial_answers(made.run, workload(), CPU, pruned=True)
    alive = [StorageWeakRef(each.untyped_storage()) for each in made.model.module.state_dict().values()]
    held = []

    def rebuild(run, directory):
        held.append(sum(not each.expired() for each in alive))
        fresh = workload()
        alive.extend(StorageWeakRef(each.untyped_storage()) for each in fresh.model.state_dict().values())
        return fresh

    monkeypatch.setattr(comparison, "rebuild", rebuild)
    found = compared(made, answered, 0.0)
    assert held == [0, 0]
    assert found.parity.passed
    assert found.outputs.max_rel_err.value > 0


@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_serial_model_without_room_leaves_the_comparison_unknown(monkeypatch, fails_at):
    made, calls = session(Recipe(prune="magnitude")), []

    def without_room(*args, **options):
        calls.append(options)
        if len(calls) > fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return serial_answers(*args, **options)

    monkeypatch.setattr(comparison, "rebuild", lambda run, directory: workload())
    monkeypatch.setattr(comparison, "serial_answers", without_room)
    found = compared(made, Answers(outputs=torch.ones(40, 5), count=40, metric=0.5, metric_reason=""), 0.0)
    parity, outputs = found.parity, found.outputs
    assert (parity.steps, parity.passed, parity.max_rel_err) == (0, False, None)
    assert parity.reason.endswith("rank 0's device: CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert outputs.num_samples == 0
    assert outputs.max_rel_err.value is outputs.top1_agreement.value is None
    assert outputs.top1_agreement.reason == outputs.metric_of_reference.reason == parity.reason


def generated(cache_max_rel_err: Fraction) -> Generation:
    """Three sequences generated with a cache."""
    energy = TokenEnergy(
        energy_j=None, window_s=1.0, scope=None, method="none", reason="none", per_token_j=Joules.missing("none")
    )
    return Generation(
        kv_cache=True,
        prompt=1,
        tokens=1,
        num_sequences=3,
        repeats=1,
        time_to_first_token_ms=Estimate.between(1.0, None, None, method="median"),
        time_per_output_token_ms=Estimate.between(1.0, None, None, method="median"),
        tokens_per_s=1.0,
        cache_max_rel_err=cache_max_rel_err,
        energy=energy,
    )


def test_a_cache_that_changes_logits_is_wrong_without_a_serial_model_too():
    unknown = Parity(max_rel_err=None, tolerance=1e-4, steps=0, reference="serial", passed=False, reason="no room")
    assert _with_cache(unknown, [generated(Fraction.of(1e-6))]) == unknown
    broken = _with_cache(unknown, [generated(Fraction.of(0.5))])
    assert broken.steps == 3
    assert "differ from those without by 0.5" in broken.reason


@pytest.mark.mpi
def test_a_run_whose_comparison_has_no_room_leaves_its_record(tmp_path):
    load = {"arrival_rates_per_s": [400.0], "num_requests": 100, "warmup_requests": 10}
    [path] = write_runs(tmp_path, {"name": "mlp"}, {**load, "layouts": [{}], "batch_sizes": [4]})
    check(mpirun(1, [ROOT / "tests/infer/many.py", path, "--no-room"], 200))
    summary = summary_in(path.parent)
    assert (summary.status, summary.error) == ("completed", None)
    assert summary.inference.rates[-1].latency_ms.p99.value > 0
    assert summary.parity.steps == 0
    assert "out of memory" in summary.parity.reason
    assert summary.outputs.max_rel_err.value is None
