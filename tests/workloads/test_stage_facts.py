"""What cannot be cut into pipeline stages is refused before anything starts, with the reason."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.utils.data import TensorDataset

from hpc_accel.study.expand import listed_runs
from hpc_accel.study.rules import refusals
from hpc_accel.study.study_file import Study
from hpc_accel.workloads.count_facts import describe
from hpc_accel.workloads.workload import Workload

INPUTS = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))


def refused(workload, layout, **of_workload):
    """Value and rule of what a layout of the workload breaks."""
    given = {"name": "w", "entry": "tests.zoo.models.text:lora", "global_batch_size": 8, **of_workload}
    study = Study.model_validate(
        {
            "name": "t",
            "workload": given,
            "layouts": [layout],
            "resources": {"ranks_per_node": 4},
            "device": "cpu",
        }
    )
    facts = describe(workload, tries_cut=True)
    (run,) = listed_runs(study, study.workloads[0], facts)
    return [(each.value.partition(": ")[2], each.rule) for each in refusals(run, study.resources, facts)]


class Conditioned(nn.Module):
    """All layers take what the first one made, which no chain of blocks does; `looks` follows values."""

    def __init__(self, *, looks):
        super().__init__()
        self.stem, self.looks = nn.Linear(8, 8), looks
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, inputs):
        states = first = self.stem(inputs)
        for layer in self.layers:
            if self.looks and float(states.mean()) > 1e6:
                break
            states = layer(states) + first
        return states


def made(model, loss=nn.functional.mse_loss):
    return Workload(model=model, loss=loss, dataset=TensorDataset(INPUTS, INPUTS))


STAGES = {"pp": 2, "accumulation_steps": 2}


def test_what_neither_a_chain_nor_the_tracer_cuts_is_refused():
    model = Conditioned(looks=True)
    ((value, rule),) = refused(made(model), STAGES)
    assert value.startswith("pp 2: Conditioned cannot be cut by the tracer"), value
    assert "torch.export" in rule
    assert not refused(made(model), {"dp": 2})
    assert "forward" not in vars(model.layers[1]), "a copy was cut"


def test_what_the_tracer_cuts_is_not():
    assert not refused(made(Conditioned(looks=False)), STAGES)


class OwnLoss(nn.Module):
    def __init__(self, *, chained):
        super().__init__()
        self.layers, self.chained = nn.ModuleList(nn.Linear(8, 8) for _ in range(3)), chained

    def forward(self, inputs, targets):
        states = inputs
        for layer in self.layers if self.chained else reversed(self.layers):
            states = torch.relu(layer(states))
        return {"loss": nn.functional.mse_loss(states, targets), "states": states}


def test_a_models_own_loss_goes_through_a_chain_of_blocks_only():
    assert not refused(made(OwnLoss(chained=True), None), STAGES)
    ((value, rule),) = refused(made(OwnLoss(chained=False), None), STAGES)
    assert "returns its loss" in value
    assert "blocks in a chain" in rule


def test_what_fills_up_a_batch_would_count_in_a_models_own_loss():
    ((value, _),) = refused(made(OwnLoss(chained=True), None), STAGES, last_batch="keep")
    assert value.startswith("last_batch keep with pp 2")


def talking(outputs, targets):
    """As where tokens are counted over all ranks."""
    return all_reduce(nn.functional.mse_loss(outputs, targets), group=dist.group.WORLD)


def test_a_loss_that_talks_to_all_ranks_is_one_of_replicas_alone():
    workload = made(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), talking)
    ((value, _),) = refused(workload, STAGES)
    assert value == "pp 2 with a loss that talks to all ranks (allreduce)"
    assert not refused(workload, {"dp": 2, "accumulation_steps": 2})
