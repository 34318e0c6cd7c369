"""`hpc-accel check` on models that work, that fail, and that do to their process what no model should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_accel.study.starter import write_starter

COMMAND = [sys.executable, "-m", "hpc_accel.cli"]
COMMAND = Path(sys.executable).with_name("hpc-accel")
STUDY = """\
workload: {name: mine, entry: "my_model:build", global_batch_size: 16}
resources: {ranks_per_node: 4}
layouts: [{dp: 2}]
"""
MODEL = """\
import os, sys, time
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import Dataset, TensorDataset

class Data(Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        return self.sample(index)
    def sample(self, index):
        return torch.randn(4), torch.randn(2)

def build():
    return model(), mse_loss, Data()

def model():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
"""
MISTAKES = [
    "import",
    "syntax",
    "raises",
    "exit",
    "os_exit",
    "abort",
    "shapes",
    "no_sample",
    "last_sample",
    "lengths",
    "nan",
    "loss_exits",
    "empty",
]
HANGS = """\
def build():
    while True:
        pass
"""


def check(directory, *arguments, study=STUDY, model=MODEL, timeout_s=120):
    (directory / "my_model.py").write_text(model)
    (directory / "s.yaml").write_text(study)
    return subprocess.run(
        [COMMAND, "check", "s.yaml", *arguments],
        cwd=directory,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def with_sample(text):
    return MODEL.replace("return torch.randn(4), torch.randn(2)", text)


def line_of(model, text):
    return next(number for number, line in enumerate(model.splitlines(), 1) if text in line)


def test_starter_study_is_told_of_whole(tmp_path):
    write_starter(tmp_path, "mine")
    study = (tmp_path / "studies/mine.yaml").read_text()
    done = check(tmp_path, study=study, model="")
    assert done.returncode == 0, done.stderr
    for said in (
        "4,482 parameters",
        "1,000 samples; input [2] float32, target [] int64",
        "the mean over samples",
        "8 samples in stages of 2+3 layers in bf16",
        "6 runs to measure",
        "checked in",
    ):
        assert said in done.stdout


def test_what_is_left_out_is_named_and_the_rest_stays(tmp_path):
    study = STUDY.replace("{dp: 2}", "{dp: [1, 2, 3, 4], shard: [none, full]}")
    done = check(tmp_path, "--json", study=study)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["num_runs"] == 5
    [found] = answer["workloads"]
    reasons = {each["label"]: each["rule"] for each in found["left_out"]}
    assert "fsdp fp32 x1" in reasons
    assert "dp 3" in reasons and "dp 3 shard full" in reasons
    assert all(each["remedy"] for each in found["left_out"])
    nothing = check(tmp_path, study=STUDY.replace("{dp: 2}", "{shard: full}, {dp: 3}"))
    assert nothing.returncode == 78
    assert "(and 1 more)\n  rule:" in nothing.stderr


def test_a_micro_batch_that_a_layout_cannot_run_is_told_before_its_run(tmp_path):
    model = MODEL.replace("nn.ReLU()", "nn.BatchNorm1d(8)")
    study = STUDY.replace("[{dp: 2}]", "[{dp: 2}, {dp: 2, micro_batch_size: 1}]")
    done = check(tmp_path, study=study, model=model)
    assert done.returncode == 0, done.stderr
    assert "would fail: dp2 fp32 x8" in done.stdout and "more than 1 value per channel" in done.stdout
    alone = check(tmp_path, study=STUDY.replace("dp: 2", "dp: 2, micro_batch_size: 1"), model=model)
    assert alone.returncode == 78 and "more than 1 value per channel" in alone.stderr


def test_blocks_are_cut_by_the_tracer(tmp_path):
    blocks = (
        "class Blocks(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 2)])\n"
        "    def forward(self, states):\n"
        "        for block in self.blocks:\n"
        "            states = block(states)\n"
        "        return states\n"
    )
    model = MODEL.replace("return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))", "return Blocks()")
    done = check(tmp_path, study=STUDY.replace("dp: 2", "pp: 2"), model=model + blocks)
    assert done.returncode == 0, done.stderr
    assert "stages of 1+1 layers" in done.stdout


@pytest.mark.parametrize(
    ("loss", "target", "over", "said"),
    [
        ("nn.CrossEntropyLoss()", "torch.tensor(index % 2)", "samples", "the mean over samples"),
        ("nn.CrossEntropyLoss()", "torch.tensor(-100 if index else 1)", "items", "the items that count"),
        ("lambda o, t: (o.mean(1) - t).norm()", "torch.tensor(1.0 + index)", "neither", "of the micro-batch"),
    ],
)
def test_what_the_mean_is_over(tmp_path, loss, target, over, said):
    model = with_sample(f"return torch.randn(4), {target}").replace("mse_loss, Data", f"{loss}, Data")
    model = model.replace("index if", "(index % 7) if") if over == "items" else model
    done = check(tmp_path, "--json", model=model)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["workloads"][0]["trial"]["mean_over"] == over
    assert said in check(tmp_path, model=model).stdout


def in_build(text):
    return MODEL.replace("return model(), ", f"{text}; return model(), ")


@pytest.mark.parametrize(
    ("model", "code", "value", "at"),
    [
        (MODEL.replace("import os", "import no_such_module, os"), 78, "no_such_module", "import no_such_module"),
        (MODEL + "def oops(:\n", 78, "invalid syntax", None),
        (in_build("raise ValueError('boom')"), 78, "boom", "raise Value"),
        (in_build("sys.exit(0)"), 78, "SystemExit", "sys.exit"),
        (in_build("os._exit(0)"), 78, "os._exit(0) at ", "os._exit"),
        (in_build("os.abort()"), 78, "SIGABRT", "os.abort"),
        (MODEL.replace("8, 2", "9, 2"), 78, "cannot be multiplied", None),
        (with_sample("return [][index], 0"), 78, "list index out of range", "[][index]"),
        (with_sample("return torch.ones(4) if index < 63 else [][0], torch.ones(2)"), 65, "dataset[63]", "[][0]"),
        (with_sample("return torch.randn(4 + index // 60), torch.randn(2)"), 65, "dataset[63] is input [5]", None),
        (with_sample("return torch.full((4,), float('nan')), torch.ones(2)"), 70, "is nan", None),
        (MODEL.replace("mse_loss, Data", "lambda o, t: sys.exit(3), Data"), 78, "SystemExit", "sys.exit(3)"),
        (MODEL.replace("return 64", "return 0"), 78, "empty", None),
    ],
    ids=MISTAKES,
)
def test_what_the_users_code_does_wrong(tmp_path, model, code, value, at):
    done = check(tmp_path, model=model)
    assert done.returncode == code, done.stdout + done.stderr
    assert value in done.stderr
    assert "  rule:   " in done.stderr and "  remedy: " in done.stderr
    assert "Traceback" not in done.stderr
    if at is not None:
        assert f"where:  {tmp_path}/my_model.py:{line_of(model, at)} in " in done.stderr


@pytest.mark.parametrize("model", [HANGS, with_sample("time.sleep(1000)")], ids=["build", "data"])
def test_a_hang_is_told_with_the_users_line(tmp_path, model):
    begin_s = time.monotonic()
    done = check(tmp_path, "--limit-s", "8", model=model)
    assert done.returncode == 75, done.stderr
    assert time.monotonic() - begin_s < 60
    assert "no end within 8 s while" in done.stderr
    assert f"{tmp_path}/my_model.py:" in done.stderr


def test_one_workload_that_ends_the_process_does_not_hide_the_others(tmp_path):
    (tmp_path / "other.py").write_text("import os\ndef build():\n    os._exit(0)\n")
    workloads = (
        "workload:\n"
        '  - {name: first, entry: "my_model:build", global_batch_size: 16}\n'
        '  - {name: ends, entry: "other:build", global_batch_size: 16}\n'
        '  - {name: missing, entry: "my_model:nothing", global_batch_size: 16}\n'
        '  - {name: last, entry: "my_model:build", global_batch_size: 16}\n'
    )
    done = check(tmp_path, "--json", study=workloads + "layouts: [{}]\n")
    assert done.returncode == 78
    found = {each["name"]: each.get("num_runs") for each in json.loads(done.stdout)["workloads"]}
    assert found == {"first": 1, "ends": None, "missing": None, "last": 1}
    assert done.stderr.count("error: ") == 2


def test_it_stays_where_it_was_started_and_swallows_what_is_printed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    noisy = f"os.chdir({str(elsewhere)!r}); print('x' * 70, file=sys.stderr); "
    model = with_sample(f"{noisy}return torch.ones(4), torch.ones(2)").replace(
        "return model(), ", "os.write(1, (b'line\\n') * 10**6); return model(), "
    )
    done = check(tmp_path, "--out", "results/s/check.json", model=model)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) < 2000
    assert json.loads((tmp_path / "results/s/check.json").read_text())["num_runs"] == 1
    assert not list(elsewhere.iterdir())


def test_a_model_larger_than_memory_is_described_only(tmp_path):
    layers = "nn.Linear(4, 10**6), nn.Linear(10**6, 10**6), nn.Linear(10**6, 2)"
    model = MODEL.replace("nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)", layers)
    done = check(tmp_path, model=model)
    assert done.returncode == 0, done.stderr
    assert "1,000,008,000,002 parameters" in done.stdout and "too large for this machine" in done.stdout


DROPS = """
import torch
from torch import nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2))
    def forward(self, inputs, labels):
        noise = torch.randn(len(inputs), 2)
        return {"loss": nn.functional.cross_entropy(self.body(inputs) + noise, labels)}
class Data(torch.utils.data.Dataset):
    def __len__(self): return 64
    def __getitem__(self, index): return {"inputs": torch.randn(4), "labels": index % 2}
def build():
    return Model(), None, Data()
"""


def test_what_is_random_in_a_model_that_returns_its_loss_does_not_hide_the_mean(tmp_path):
    done = check(tmp_path, model=DROPS)
    assert done.returncode == 0, done.stderr
    assert "the mean over samples" in done.stdout
