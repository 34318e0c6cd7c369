"""Which blocks of a model are alike, what is left when some are dropped, and how stages of a twin are cut."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.workloads.builtin import lm, synthetic, vision
from hpc_accel.workloads.twin import alike_blocks, keep_blocks, twin_split
from hpc_accel.workloads.workload import Workload


class Listed(nn.Module):
    """Blocks in a list inside of the model, with something of another kind behind them."""

    def __init__(self, depth=5):
        super().__init__()
        self.blocks = nn.ModuleList([*(nn.Linear(8, 8) for _ in range(depth)), nn.Linear(8, 2)])

    def forward(self, states):
        for block in self.blocks:
            states = block(states)
        return states


def of(model):
    data = TensorDataset(torch.zeros(4, 8), torch.zeros(4, 2))
    return Workload(model=model, loss=nn.functional.mse_loss, dataset=data)


WORKLOADS = [
    (lambda: lm.build(layers=6), 6, 3, (4, 4), (3, 2)),
    (vision.build, None, 2, None, None),
    (lambda: of(Listed()), 5, 2, (3, 3), (1, 2)),
]


@pytest.mark.parametrize(("build", "count", "kept", "split", "expected"), WORKLOADS)
def test_a_twin_has_the_first_blocks_with_their_weights(build, count, kept, split, expected):
    workload = build()
    alike = alike_blocks(workload)
    assert alike is not None
    assert count is None or alike.count == count
    whole = {name: value.clone() for name, value in workload.model.state_dict().items()}
    if split is not None:
        assert twin_split(workload, kept, 2, split) == expected
        with pytest.raises(ValueError, match="each has at least one"):
            twin_split(workload, 1, 2, split)
    keep_blocks(workload, kept)
    left = workload.model.state_dict()
    assert len(left) < len(whole)
    assert all(torch.equal(value, whole[name]) for name, value in left.items())
    inputs, target = workload.dataset[0]
    assert torch.isfinite(workload.loss(workload.model(inputs[None]), torch.as_tensor(target)[None]))


def test_layers_that_tensor_parallelism_cuts_in_pairs_stay_in_pairs():
    workload = synthetic.build(width=8, depth=8)
    alike = alike_blocks(workload)
    assert alike.blocks[0] == ("0", "1", "2", "3"), "columns and rows, each with its activation"
    keep_blocks(workload, 1)
    names = [name for name, child in workload.model.named_children() if isinstance(child, nn.Linear)]
    assert [workload.tensor_plan[name] for name in names] == ["columns", "rows"] * 2


def test_a_model_without_alike_blocks_has_no_twin():
    assert alike_blocks(of(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)))) is None
