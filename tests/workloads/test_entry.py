"""The user's own model is loaded with care: whatever is wrong with it is named before any rank starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hpc_accel.errors import ConfigError
from hpc_accel.study.run import WorkloadSpec
from hpc_accel.workloads import entry
from hpc_accel.workloads.count_facts import describe

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
        spec = WorkloadSpec(name="u", entry=f"users_model:{name}", args=args or {}, global_batch_size=4)
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
        ("import os\ndef build(): os._exit(0)", "build", {}, "os._exit(0) at "),
        ("import os\ndef build(): os._exit(0)", "build", {}, "users_model.py:2 in build"),
        ("def build(): return 5", "build", {}, "returned int"),
        ("def build(): return 1, 2, 3", "build", {}, "model is int"),
        ("import torch\ndef build(): return torch.nn.Linear(1, 1), 2, [(1, 2)]", "build", {}, "loss is int"),
        ("import torch\ndef build(): return torch.nn.Linear(1, 1), print, []", "build", {}, "dataset is empty"),
        ("import torch\ndef build(): return torch.nn.Linear(1, 1), print, [5]", "build", {}, "a sample is Tensor"),
        ("import torch\ndef build(): return torch.nn.Linear(1, 1), print, [(5,)]", "build", {}, "of one element"),
        ("import torch\ndef build(): return torch.nn.Linear(1, 1), print, ['a']", "build", {}, "dataset[0] is str"),
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


def test_a_model_in_eval_mode_trains_and_its_frozen_parts_stay_so(load):
    """As `from_pretrained` gives it; a frozen BatchNorm is a part of a model in train mode."""
    whole = load(GOOD.replace("    return model", "    model.eval()\n    return model"))
    assert all(each.training for each in whole.model.modules())
    part = load(GOOD.replace("    return model", "    model[1].eval()\n    return model"))
    assert [each.training for each in part.model] == [True, False, True]


def test_a_forked_process_and_another_thread_may_leave(load):
    """A watch over hangs ends its process from a thread, while the user's code runs."""
    source = f"""
import os
pid = os.fork()
if pid == 0:
    os._exit(7)
assert os.waitpid(pid, 0)[1] >> 8 == 7
{GOOD}"""
    assert load(source).model
    thread = "import os, threading\nthreading.Thread(target=lambda: os._exit(7)).start()\n"
    code = (
        f"import pathlib, sys; sys.path.insert(0, '')\n"
        "from hpc_accel.workloads.sudden_exit import no_sudden_exit\n"
        f"with no_sudden_exit('x'):\n  exec({thread!r})\n  import time; time.sleep(30)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 7


@pytest.mark.parametrize("closing", ["sys.stdout.close()", "os.close(1)", "sys.stdout = None", "os.close(2)"])
def test_streams_that_are_closed_come_back(tmp_path, closing):
    (tmp_path / "closes.py").write_text("import os, sys\n" + GOOD.replace("(width=3):", f"(width=3):\n    {closing}"))
    code = (
        "import sys\n"
        "from hpc_accel.study.run import WorkloadSpec\n"
        "from hpc_accel.workloads.entry import build\n"
        "build(WorkloadSpec(name='u', entry='closes:build', global_batch_size=2), 0)\n"
        "print('out'); print('err', file=sys.stderr)"
    )
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1:]) == (0, "out\n", ["err"]), done.stderr


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
    with pytest.raises(ConfigError, match="modules that fit: 0, 2"):
        describe(load(source))


SENSORS = """
import torch
from torch import nn
from torch.utils.data import Dataset
from hpc_accel.workloads.chain import Chain
from hpc_accel.workloads.workload import Metric, Workload
class Join(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(5, 4)
    def forward(self, one, two):
        return self.first(one) + self.second(two)
class Data(Dataset):
    def __len__(self): return 8
    def __getitem__(self, index): return (torch.full((3,), 1.0 * index), torch.ones(5)), torch.tensor(index % 2)
class Other(Data):
    def __getitem__(self, index): return (torch.ones(3), torch.ones(6)), torch.tensor(0)
def build():
    return Workload(model=Chain(Join(), nn.ReLU(), nn.Linear(4, 2)), loss=nn.functional.cross_entropy, dataset=Data())
"""


def test_a_sample_of_several_tensors_goes_to_the_first_layer(load):
    workload = load(SENSORS)
    facts = describe(workload)
    assert facts.sequential
    assert [layer.num_parameters for layer in facts.layers] == [3 * 4 + 4 + 5 * 4 + 4, 0, 10]
    assert facts.sample_bytes == (3 + 5) * 4
    one, two = torch.randn(2, 3), torch.randn(2, 5)
    by_hand = workload.model[2](workload.model[1](workload.model[0](one, two)))
    assert torch.equal(workload.model(one, two), by_hand)
    assert isinstance(workload.model[:2], torch.nn.Sequential)
    assert workload.model[:2](one, two).shape == (2, 4)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("(torch.full((3,), 1.0 * index), torch.ones(5)), torch.tensor(index % 2)", "dict(one=1)", "keys one"),
        ("torch.tensor(index % 2)", "None", "dataset[0] holds None"),
        ("torch.tensor(index % 2)", "object()", "default_collate"),
        ("dataset=Data())", "dataset=Data(), collate=3)", "collate is int"),
        ("dataset=Data())", "dataset=Data(), collate=lambda samples: 1 / 0)", "collate of dataset[0] raised Zero"),
        ("dataset=Data())", "dataset=Data(), metric=3)", "metric is int"),
        (
            "dataset=Data())",
            "dataset=Data(), metric=Metric(name='a', compute=max, higher_is_better=True, dataset=[]))",
            "metric.dataset is empty",
        ),
        (
            "dataset=Data())",
            "dataset=Data(), metric=Metric(name='a', compute=max, higher_is_better=True, dataset=Other()))",
            "metric.dataset[0] has shapes [[3], [6], []], dataset[0] [[3], [5], []]",
        ),
    ],
)
def test_wrong_inputs_and_metrics_are_named(load, old, new, expected):
    assert old in SENSORS
    with pytest.raises(ConfigError) as caught:
        load(SENSORS.replace(old, new))
    assert expected in str(caught.value)


def test_inputs_that_do_not_fit_are_shown_with_all_shapes(load):
    with pytest.raises(ConfigError, match=r"of shape \[2, 3\] and \[2, 6\]"):
        describe(load(SENSORS.replace("torch.ones(5)),", "torch.ones(6)),")))
