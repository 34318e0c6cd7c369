"""A stage sends what its neighbour was told to expect, on whatever device its last operation is computed."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.data import TensorDataset

from hpc_accel.parallel.apply import _Prepare
from hpc_accel.parallel.boundary import cast_outputs
from hpc_accel.parallel.mesh import rank_coordinates
from hpc_accel.parallel.pipeline import cut
from hpc_accel.parallel.traced import trace
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.workloads.control_flow import ControlFlow
from hpc_accel.workloads.workload import Workload
from tests.mpirun import ROOT
from tests.train.test_layouts import assert_parity, train_all, write_runs

PLACE = rank_coordinates(Layout(micro_batch_size=4, accumulation_steps=1), 0, "cpu")


class WidensWhenRun(nn.Module):
    """Described in the dtype of its inputs and computed in fp32, as norms are under CUDA's autocast."""

    def forward(self, states):
        return states if isinstance(states, FakeTensor) else states.float()


class Blocks(nn.Module):
    """No Sequential, so the tracer cuts it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, states):
        for layer in self.layers:
            states = torch.tanh(layer(states))
        return states


def prepared(stages, stage=0, dtype=torch.bfloat16):
    prepare = _Prepare(PLACE, torch.device("cpu"), Recipe(), dtype, None, ControlFlow(), later=False)
    return prepare(stages.modules[stage], stages.output_dtypes(stage))


def workload_of(model):
    return Workload(model=model, loss=nn.functional.mse_loss, dataset=TensorDataset(torch.ones(8, 8), torch.ones(8, 8)))


def test_a_stage_that_ends_in_fp32_sends_16_bits_where_they_were_declared():
    stages = cut(
        workload_of(nn.Sequential(nn.Linear(8, 8), WidensWhenRun(), nn.Linear(8, 8))), (2, 1), PLACE, torch.bfloat16
    )
    assert stages.output_dtypes(0) == [torch.bfloat16]
    assert prepared(stages)(torch.ones(4, 8)).dtype == torch.bfloat16


def test_a_traced_stage_sends_what_the_tracer_saw():
    stages = trace(workload_of(Blocks()), (1, 1), PLACE, torch.bfloat16)
    assert stages.output_dtypes(0) == [torch.bfloat16]
    stage = stages.modules[0]
    forward = stage.forward
    stage.forward = lambda *inputs: forward(*inputs).float()
    assert prepared(stages)(torch.ones(4, 8)).dtype == torch.bfloat16


def test_an_fp32_boundary_stays_fp32():
    stages = cut(workload_of(nn.Sequential(nn.Linear(8, 8), ToFloat())), (1, 1), PLACE, torch.bfloat16)
    assert stages.output_dtypes(1) == [torch.float32]


class ToFloat(nn.Module):
    def forward(self, states):
        return states.float()


@pytest.mark.parametrize("outputs", [(torch.ones(2), torch.arange(2), None), [torch.ones(2), torch.arange(2), None]])
def test_only_floating_values_are_cast(outputs):
    module = nn.Identity()
    cast_outputs(module, [torch.bfloat16, torch.int64, None])
    first, second, third = module(outputs)
    assert (first.dtype, second.dtype, third) == (torch.bfloat16, torch.int64, None)


MODEL = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from tests.parallel.test_boundary import WidensWhenRun
from hpc_accel.workloads.workload import Metric, Workload

def build():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(96, 8, generator=generator)
    targets = (inputs.sum(1) > 0).long()
    middle = [each for _ in range(3) for each in (nn.Linear(16, 16), nn.Tanh(), WidensWhenRun())]
    model = nn.Sequential(nn.Linear(8, 16), *middle, nn.Linear(16, 2), WidensWhenRun())
    metric = Metric(
        name="accuracy",
        compute=lambda outputs, targets: (outputs.argmax(1) == targets).float().mean().item(),
        higher_is_better=True,
        dataset=TensorDataset(inputs[:32], targets[:32]),
    )
    data = TensorDataset(inputs, targets)
    return Workload(model=model, loss=nn.functional.cross_entropy, dataset=data, metric=metric)
"""


@pytest.mark.mpi
def test_pipelines_train_with_stages_that_widen(tmp_path, monkeypatch):
    (tmp_path / "widening_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    workload = {"entry": "widening_model:build", "global_batch_size": 32}
    layouts = [{"pp": 2, "schedule": ["1f1b", "interleaved_1f1b"], "accumulation_steps": 4}]
    summaries = train_all(2, write_runs(tmp_path, workload, layouts, ("bf16", "fp16")), PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert_parity(summaries)
    assert {summary.metric.num_samples for summary in summaries.values()} == {32}
