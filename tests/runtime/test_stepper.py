"""The host may launch the next step before it looks at the last one, and finds the same."""

import gc
import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.parallel.mesh import rank_coordinates
from hpc_accel.runtime.make_stepper import make_stepper
from hpc_accel.study.run import Run
from hpc_accel.train import rank_state
from hpc_accel.train.parity.room import make_room
from hpc_accel.workloads.workload import Workload
from tests.train.test_layouts import write_runs

CPU = torch.device("cpu")


class Alone:
    """What a reduction over one rank is."""

    def wait(self):
        pass


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a stepper of eight samples a batch, always with the same weights, and its workload."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_, **__: Alone())
    adam = {"name": "adamw", "learning_rate": 0.01}
    [path] = write_runs(tmp_path, {"name": "mlp", "global_batch_size": 8, "optimizer": adam}, [{}], ("fp16",))
    run = Run.model_validate_json(path.read_bytes())

    def made():
        torch.manual_seed(0)
        data = TensorDataset(torch.randn(32, 2), torch.randn(32, 1))
        model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
        workload = Workload(model=model, loss=nn.functional.mse_loss, dataset=data)
        place = rank_coordinates(run.layout, 0, "cpu")
        return make_stepper(run, workload, place, CPU, recipe=run.recipe, split=None), workload

    return made


@pytest.mark.parametrize("num_ahead", [0, 1])
def test_at_most_so_many_steps_are_under_way(make, num_ahead):
    stepper, _ = make()
    stepper.clock.num_ahead = num_ahead
    launched = [stepper.step() for _ in range(4)]
    assert list(stepper._in_flight) == launched[4 - num_ahead :]
    stepper.settle()
    assert not stepper._in_flight


def test_losses_are_the_same_however_late_they_are_read(make):
    at_once, later = make()[0], make()[0]
    later.clock.num_ahead = 1
    wanted = [at_once.step().result().loss for _ in range(5)]
    launched = [later.step() for _ in range(5)]
    assert [each.result().loss for each in launched] == wanted


def test_a_loss_counts_with_the_scale_of_its_own_step(make):
    stepper, _ = make()
    stepper.clock.num_ahead = 1
    first = stepper.step()
    stepper.loss.scaler.update(2.0)
    assert first.result().loss < 100, "divided by what it was multiplied with"


def test_room_is_made_for_the_serial_run(make):
    stepper, workload = make()
    stepper.step()
    held = [weakref.ref(value) for value in stepper.optimizer.state[stepper.model.parameters[0]].values()]
    wrapped = weakref.ref(stepper.optimizer)
    make_room(stepper, workload, CPU)
    gc.collect()
    assert wrapped() is None
    assert [each() for each in held] == [None] * len(held)
    assert len(list(workload.model.parameters())) == 4, "a module that is made once and returned again stays whole"


def test_a_checkpoint_of_a_cpu_goes_on_on_a_gpu(make, monkeypatch):
    """It has no random state of a GPU; the seeded one stays."""
    stepper, _ = make()
    values = rank_state.values_of(stepper)
    changed = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *arguments: changed.append(arguments))
    torch.rand(1), random.random(), np.random.rand()
    rank_state._restore_random(torch.device("cuda", 0), values["random"])
    assert changed == []
    values["random"]["torch"]["cuda"] = values["random"]["torch"]["cpu"]
    rank_state._restore_random(torch.device("cuda", 0), values["random"])
    assert len(changed) == 1
