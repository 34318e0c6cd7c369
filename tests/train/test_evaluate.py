"""The metric is a figure, or a reason: whatever the user's function does, the run's record is written."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.parallel.mesh import rank_coordinates
from hpc_accel.runtime.make_stepper import make_stepper
from hpc_accel.study.run import Run
from hpc_accel.train.evaluate import evaluate
from hpc_accel.workloads.workload import Metric, Workload
from tests.train.test_layouts import write_runs


class Alone:
    def Get_rank(self):
        return 0

    def gather(self, value, root):
        return [value]


@pytest.fixture
def made(tmp_path):
    """A stepper of eight samples a batch, and its workload with three held-out samples."""
    [path] = write_runs(tmp_path, {"name": "mlp", "global_batch_size": 8}, [{}])
    run = Run.model_validate_json(path.read_bytes())
    data = TensorDataset(torch.ones(9, 2), torch.ones(9, 1))
    held_out = TensorDataset(torch.ones(3, 2), torch.ones(3, 1))
    metric = Metric(name="count", compute=lambda outputs, _: len(outputs), higher_is_better=True, dataset=held_out)
    model = nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.5))
    workload = Workload(model=model, loss=nn.functional.mse_loss, dataset=data, metric=metric)
    place = rank_coordinates(run.layout, 0, "cpu")
    return make_stepper(run, workload, place, torch.device("cpu"), recipe=run.recipe, split=None), workload


def test_fewer_held_out_samples_than_a_batch_count_once(made):
    told = evaluate(*made, Alone(), 1024)
    assert (told.value, told.num_samples, told.reason) == (3, 3, "")


@pytest.mark.parametrize(("most", "wanted"), [(2, [0.0, 1.0]), (1, [0.0]), (3, [0.0, 1.0, 2.0])])
def test_at_most_so_many_samples_are_looked_at_evenly_spread(made, most, wanted):
    stepper, workload = made
    seen = []
    held_out = TensorDataset(torch.ones(3, 2), torch.arange(3.0)[:, None])
    metric = replace(workload.metric, dataset=held_out, compute=lambda _, targets: seen.extend(targets[:, 0]) or 0.5)
    told = evaluate(stepper, replace(workload, metric=metric), Alone(), most)
    assert (told.num_samples, [float(each) for each in seen]) == (most, wanted)


def test_none_are_looked_at_where_the_study_wants_no_metric(made):
    told = evaluate(*made, Alone(), 0)
    assert (told.value, told.num_samples, told.reason) == (None, 0, "the study sets metric_samples: 0")


def test_a_metric_that_raises_is_a_reason(made):
    stepper, workload = made
    metric = replace(workload.metric, also={"auc": lambda outputs, targets: 1 / 0})
    told = evaluate(stepper, replace(workload, metric=metric), Alone(), 1024)
    assert (told.value, told.also) == (3, {"auc": None})
    assert told.reason == "auc raised ZeroDivisionError: division by zero"


def test_traced_stages_with_dropout_have_no_metric(made):
    stepper, workload = made
    stepper.model = SimpleNamespace(schedule=object(), boundaries=[])
    told = evaluate(stepper, workload, Alone(), 1024)
    assert told.value is None
    assert "Dropout" in told.reason


def test_a_loader_leaves_the_random_state_as_it_is(made):
    before = torch.get_rng_state()
    next(made[0].shares)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_evaluation_leaves_each_part_in_its_mode(made):
    stepper, _ = made[:2]
    parts = [each for module in stepper.model.modules.values() for each in module.modules()]
    parts[-1].eval()
    before = [each.training for each in parts]
    assert len(set(before)) == 2
    evaluate(*made, Alone(), 4)
    assert [each.training for each in parts] == before
    parts[-1].train()
