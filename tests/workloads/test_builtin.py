"""The built-in workloads learn: a few serial steps on their real data lower the loss."""

import pytest
import torch
from torch.utils.data import default_collate

from hpc_accel.errors import ConfigError
from hpc_accel.study.builtin_workloads import BUILTIN
from hpc_accel.study.run import WorkloadSpec
from hpc_accel.workloads import entry
from hpc_accel.workloads.count_facts import describe


def built(name, **args):
    builtin = BUILTIN[name]
    spec = WorkloadSpec(name=name, entry=builtin.entry, args=args, global_batch_size=builtin.global_batch_size)
    return entry.build(spec, seed=0)


@pytest.mark.parametrize(("name", "drop"), [("digits", 0.3), ("lm", 0.1), ("mlp", 0.01)])
def test_loss_falls(name, drop):
    workload, builtin = built(name), BUILTIN[name]
    batch = default_collate([workload.dataset[index] for index in range(builtin.global_batch_size)])
    optimizer = torch.optim.AdamW(workload.model.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        loss = workload.loss(workload.model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - drop


def test_facts_of_the_language_model_are_those_of_the_formulas():
    layers, hidden, sequence = 2, 32, 16
    facts = describe(built("lm", layers=layers, hidden=hidden, heads=2, sequence=sequence))
    per_block = 12 * hidden * hidden + 13 * hidden  # weights, biases and two norms
    embeddings = (256 + sequence) * hidden
    head = 2 * hidden + hidden * 256 + 256
    assert facts.num_parameters == layers * per_block + embeddings + head
    block = facts.layers[1]
    assert block.tp_flops_per_sample == 2 * 12 * hidden * hidden * sequence
    assert block.tp_allreduce_elements_per_sample == 2 * hidden * sequence
    assert block.tp_num_allreduces == 2
    assert block.num_matmuls >= 6
    assert facts.tp_units == 2  # heads


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="heads"):
        built("lm", hidden=30, heads=4)
