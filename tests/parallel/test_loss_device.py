"""A loss that holds tensors follows the outputs to the device, or the run says why it cannot."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.errors import ConfigError
from hpc_accel.parallel.layer_times import layer_times_s
from hpc_accel.parallel.loss_device import loss_of
from hpc_accel.parallel.mesh import rank_coordinates
from hpc_accel.runtime.make_stepper import make_stepper
from hpc_accel.study.run import Run
from hpc_accel.workloads.workload import Workload
from tests.train.test_layouts import write_runs

META = torch.device("meta")
WEIGHT = torch.tensor([1.0, 2.0, 3.0])


def workload_of(loss):
    """Three classes, so that the loss has three weights."""
    data = TensorDataset(torch.ones(9, 2), torch.zeros(9, dtype=torch.long))
    return Workload(model=nn.Sequential(nn.Linear(2, 3)), loss=loss, dataset=data)


def test_a_stepper_moves_the_buffers_of_its_loss(tmp_path):
    [path] = write_runs(tmp_path, {"name": "mlp", "global_batch_size": 8}, [{}])
    run = Run.model_validate_json(path.read_bytes())
    workload, place = workload_of(nn.CrossEntropyLoss(weight=WEIGHT)), rank_coordinates(run.layout, 0, "cpu")
    assert workload.loss.weight.device.type == "cpu", "whoever trains with it on the CPU before finds it there"
    stepper = make_stepper(run, workload, place, META, recipe=run.recipe, split=None)
    stepper.loss.begin([8], 8)
    outputs = stepper.model.module(torch.ones(8, 2, device=META))
    assert stepper.loss(outputs, torch.zeros(8, dtype=torch.long, device=META)).device == META
    assert workload.loss.weight.device == META


def test_layers_are_timed_with_the_loss_on_their_device():
    workload = workload_of(nn.CrossEntropyLoss(weight=WEIGHT))
    assert len(layer_times_s(workload, 4, META, None)) == 1
    assert workload.loss.weight.device == META


@pytest.mark.parametrize(
    "loss",
    [
        partial(nn.functional.cross_entropy, weight=WEIGHT),
        lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, weight=WEIGHT),
    ],
)
def test_a_loss_that_cannot_be_moved_is_named_with_a_remedy(loss):
    with pytest.raises(ConfigError, match="register_buffer"):
        layer_times_s(workload_of(loss), 4, META, None)


@pytest.mark.parametrize(
    "words",
    [
        "Expected all tensors to be on the same device, but got weight is on cpu, others on cuda:0",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "indices should be either on cpu or on the same device as the indexed tensor (cpu)",
    ],
)
def test_what_a_gpu_says_of_such_a_loss_is_understood(words):
    def loss(outputs, targets):
        raise RuntimeError(words)

    with pytest.raises(ConfigError, match="outputs on cpu: "):
        loss_of(loss, torch.ones(2), torch.ones(2))


def test_other_errors_of_a_loss_stay_as_they_are():
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        loss_of(torch.dot, torch.ones(2), torch.ones(3))
