"""Which layers a plan divides: patterns, kinds, and the plan of blocks with common names."""

import pytest
from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.tensor_plan import divided_linears, planned


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(8, 8))


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.up_proj, self.gate_proj, self.down_proj = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)


def model():
    return nn.ModuleDict(
        {"block": nn.ModuleDict({"attention": Attention(), "mlp": Perceptron()}), "out": nn.Linear(8, 2)}
    )


def test_blocks_of_common_names_are_found_whole():
    plan = planned(model(), "transformer")
    assert {name for name, way in plan.items() if way == "rows"} == {"block.attention.o_proj", "block.mlp.down_proj"}
    assert sum(way == "columns" for way in plan.values()) == 5
    assert "out" not in plan, "a head joins nothing that columns divided"


def test_torchs_own_encoder_layer_is_divided_where_it_can_be():
    """Its attention keeps all projections in one parameter, whose output layer alone must not be divided."""
    plan = planned(nn.TransformerEncoderLayer(8, 2, 16), "transformer")
    assert plan == {"linear1": "columns", "linear2": "rows"}


def test_without_such_blocks_the_layers_must_be_named():
    with pytest.raises(ConfigError, match="without transformer blocks"):
        planned(nn.Sequential(nn.Linear(2, 2)), "transformer")


def test_a_cut_wants_its_kind_of_module():
    table = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 2))
    cuts = planned(table, {"0": "vocabulary", "1": "gather"})
    assert cuts == {"0": "vocabulary", "1": "gather"}
    assert divided_linears(cuts) == {"1": "columns"}
    with pytest.raises(ConfigError, match="modules that fit: 0"):
        planned(table, {"1": "vocabulary"})


def test_the_order_is_the_models():
    """Ranks meet in it, so a plan written in another order is the same plan."""
    chain = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    assert list(planned(chain, {"2": "rows", "0": "columns"})) == ["0", "2"]
