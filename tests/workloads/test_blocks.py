"""The blocks of a model: the children of its outermost lists, each once."""

from torch import nn

from hpc_accel.workloads.blocks import blocks_of, parameters_of_blocks


class Wrapped(nn.Module):
    """A Sequential inside a module, as MONAI's U-Net is, whose own children are Sequentials again."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 1))


def test_lists_inside_a_block_are_no_blocks_of_their_own():
    assert [name for name, _ in blocks_of(Wrapped())] == ["model.0", "model.1", "model.2"]


def test_every_parameter_belongs_to_one_block():
    model = Wrapped()
    found = [name for block in parameters_of_blocks(model) for name in block]
    assert sorted(found) == sorted(name for name, _ in model.named_parameters())
