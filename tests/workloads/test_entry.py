"""The user's own model is loaded with care: whatever is wrong with it is named before any rank starts."""

import sys
from pathlib import Path

import pytest
import torch

from hpc_accel.errors import ConfigError
from hpc_accel.study.schema import Workload
from hpc_accel.workloads import entry
from hpc_accel.workloads.inspect import describe

GOOD = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
def build(width=3):
    model = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1))
    return model, nn.functional.mse_loss, TensorDataset(torch.randn(8, 2), torch.randn(8, 1))
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load_source(source, name="build", args=None):
        sys.modules.pop("users_model", None)
        Path("users_model.py").write_text(source)
        spec = Workload(name="u", entry=f"users_model:{name}", args=args or {}, global_batch_size=4)
        return entry.build(spec, seed=0)

    return load_source


def test_a_tuple_becomes_a_workload_with_the_same_weights_each_time(load):
    first, again = load(GOOD, args={"width": 5}), load(GOOD, args={"width": 5})
    weights = [torch.cat([p.flatten() for p in built.model.parameters()]) for built in (first, again)]
    assert torch.equal(*weights)
    facts = describe(first)
    assert facts.num_parameters == 2 * 5 + 5 + 5 + 1
    assert facts.forward_flops_per_sample == 2 * (2 * 5 + 5)
    assert facts.sequential


@pytest.mark.parametrize(
    ("source", "name", "args", "expected"),
    [
        ("import absent_package", "build", {}, "absent_package"),
        ("def build(:", "build", {}, "SyntaxError"),
        ("raise SystemExit(3)", "build", {}, "SystemExit"),
        ("def make(): ...", "build", {}, "it has: make"),
        ("def build(size): ...", "build", {}, "signature is build(size)"),
        ("def build(): ...", "build", {"size": 3}, "size"),
        ("def build(): return 1 / 0", "build", {}, "ZeroDivisionError"),
        ("def build(): import sys; sys.exit(0)", "build", {}, "SystemExit"),
        ("def build(): return 5", "build", {}, "returned int"),
        ("def build(): return 1, 2, 3", "build", {}, "model is int"),
        ("import torch\ndef build(): return torch.nn.Linear(1, 1), 2, [(1, 2)]", "build", {}, "loss is int"),
        ("import torch\ndef build(): return torch.nn.Linear(1, 1), print, []", "build", {}, "dataset is empty"),
        ("import torch\ndef build(): return torch.nn.Linear(1, 1), print, [5]", "build", {}, "dataset[0] is int"),
    ],
)
def test_what_is_wrong_is_named(load, source, name, args, expected):
    with pytest.raises(ConfigError) as caught:
        load(source, name, args)
    assert expected in str(caught.value)
    assert "users_model" in str(caught.value)
    assert caught.value.exit_code == 78


def test_a_loss_with_parameters_is_refused(load):
    source = GOOD.replace("nn.functional.mse_loss", "nn.Linear(1, 1)")
    with pytest.raises(ConfigError, match="loss has 2 parameters"):
        load(source)


def test_the_directory_is_restored(load, tmp_path):
    load("import os\n" + GOOD.replace("def build(width=3):", "def build(width=3):\n    os.chdir('/')"))
    assert Path.cwd() == tmp_path


def test_model_and_data_that_do_not_fit_are_named_by_layer(load):
    workload = load(GOOD.replace("torch.randn(8, 2)", "torch.randn(8, 3)"))
    with pytest.raises(ConfigError, match=r"layer 0 \(Linear\) refuses its input of shape \[2, 3\]"):
        describe(workload)


def test_a_loss_that_is_not_one_number_is_refused(load):
    workload = load(GOOD.replace("nn.functional.mse_loss", "lambda a, b: (a - b) ** 2"))
    with pytest.raises(ConfigError, match="loss"):
        describe(workload)


def test_a_tensor_plan_must_name_linear_layers(load):
    source = GOOD.replace("return model", "from hpc_accel.workloads.workload import Workload\n    return model")
    source = source.replace(
        "return model, nn.functional.mse_loss, TensorDataset(torch.randn(8, 2), torch.randn(8, 1))",
        "return Workload(model=model, loss=nn.functional.mse_loss,"
        " dataset=TensorDataset(torch.randn(8, 2), torch.randn(8, 1)), tensor_plan={'9': 'columns'})",
    )
    with pytest.raises(ConfigError, match="linear layers are: 0, 2"):
        describe(load(source))
