"""What only a GPU does: its arithmetic, its memory, its copies. Runs where one is; two ranks may share it.

HPC_ACCEL_PRETEND_GPU=1 runs the same on the CPU, less what a CPU refuses, so that no minute of a card is lost to a
mistake in a test.
"""

import os

import pytest
import torch

from tests.mpirun import ROOT, check, mpirun
from tests.records import summary_in
from tests.train.test_layouts import LM, SCRIPT, assert_parity, write_runs

PRETENDED = os.environ.get("HPC_ACCEL_PRETEND_GPU") == "1"
DEVICE = "cpu" if PRETENDED else "cuda"
PRECISIONS = ("fp32", "bf16") if PRETENDED else ("fp32", "tf32", "bf16", "fp16")
WIDE = {**LM, "args": {**LM["args"], "hidden": 64, "heads": 4}}
DEEP = {**WIDE, "args": {**WIDE["args"], "layers": 4}}
IMAGES = {"name": "vision", "args": {"model": "resnet18"}, "global_batch_size": 8}
# The idle node is not measured: where there is a counter that would take half a minute of every run.
QUICK = {"warmup_steps": 2, "steps": 4, "parity_steps": 5, "metric_samples": 64, "idle_s": 0}
ONE = {
    "resources": {"ranks_per_node": 1, "gpus_per_node": 0 if PRETENDED else 1},
    "device": DEVICE,
    "measure": QUICK,
}
# No GPU is promised to a rank, so the two may share the one there is.
SHARED = {"resources": {"ranks_per_node": 2, "gpus_per_node": 0}, "device": DEVICE, "measure": QUICK}
pytestmark = [pytest.mark.gpu, pytest.mark.mpi]


def trained(n, paths, script=SCRIPT, timeout_s=280, **environment):
    check(mpirun(n, [script, *paths], timeout_s, **environment))
    return {path.parent.name: summary_in(path.parent) for path in paths}


def on_the_device(summaries):
    assert {summary.device for summary in summaries.values()} == {DEVICE}


def test_one_gpu_computes_in_every_precision(tmp_path):
    summaries = trained(1, write_runs(tmp_path, WIDE, [{}], PRECISIONS, **ONE))
    assert_parity(summaries)
    on_the_device(summaries)


def test_one_gpu_computes_every_recipe(tmp_path):
    recipes = [{"recompute": ["selective", "full"]}, {"data_workers": 1}, {"fused_optimizer": True}]
    if not PRETENDED:
        recipes += [{"offload": "activations"}, {"pin_memory": True}, {"pin_memory": True, "data_workers": 1}]
    paths = [path for recipe in recipes for path in write_runs(tmp_path, WIDE, [{}], recipe=recipe, **ONE)]
    paths += write_runs(tmp_path, IMAGES, [{}], ("bf16",), recipe={"channels_last": True}, **ONE)
    summaries = trained(1, paths)
    assert_parity(summaries)
    on_the_device(summaries)


def test_compiled(tmp_path):
    summaries = trained(1, write_runs(tmp_path, WIDE, [{}], PRECISIONS[:2], recipe={"compile": True}, **ONE))
    assert_parity(summaries)


def test_the_cpu_computes_the_same(tmp_path):
    [here] = write_runs(tmp_path / "device", WIDE, [{}], **ONE)
    [there] = write_runs(tmp_path / "cpu", WIDE, [{}], resources={"ranks_per_node": 1}, device="cpu", measure=QUICK)
    [on_device] = trained(1, [here]).values()
    [on_cpu] = trained(1, [there]).values()
    assert on_device.losses.first == pytest.approx(on_cpu.losses.first, rel=1e-4)


def test_a_loss_with_class_weights(tmp_path, monkeypatch):
    """A loss module has tensors of its own, which have to be where the outputs are."""
    source = (
        "import torch\nfrom torch import nn\nfrom torch.utils.data import TensorDataset\n"
        "def build():\n"
        "    data = TensorDataset(torch.randn(64, 4), torch.randint(0, 3, (64,)))\n"
        "    return nn.Linear(4, 3), nn.CrossEntropyLoss(weight=torch.tensor([1., 1., 1.])), data\n"
    )
    (tmp_path / "weighted_model.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    paths = write_runs(tmp_path, {"entry": "weighted_model:build", "global_batch_size": 16}, [{}], **ONE)
    assert_parity(trained(1, paths, PYTHONPATH=f"{ROOT}:{tmp_path}"))


@pytest.mark.skipif(
    PRETENDED or (torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9)),
    reason="no 8-bit products on this device",
)
def test_fp8_trains_nearly_the_same(tmp_path):
    pytest.importorskip("torchao.float8", reason="needs torchao: pip install 'hpc-accel[fp8]'")
    summaries = trained(1, write_runs(tmp_path, WIDE, [{}], ("fp8",), **ONE))
    assert_parity(summaries)
    assert all(summary.parity.max_rel_err > 1e-5 for summary in summaries.values()), "8 bits leave a trace"


def test_two_ranks_divide_and_exchange(tmp_path):
    """Every way to divide, through pinned memory and MPI."""
    layouts = [
        {"dp": 2, "shard": ["none", "optimizer", "full"]},
        {"tp": 2, "sequence_parallel": [False, True]},
        {"pp": 2, "accumulation_steps": 4, "schedule": ["1f1b", "zbv_zero_bubble"]},
    ]
    paths = write_runs(tmp_path, DEEP, layouts, **SHARED)
    paths += write_runs(tmp_path, DEEP, [{"dp": 2}], recipe={"compression": ["bf16", "powersgd"]}, **SHARED)
    if not PRETENDED:
        paths += write_runs(tmp_path, DEEP, [{"dp": 2, "shard": "full"}], recipe={"offload": "parameters"}, **SHARED)
    summaries = trained(2, paths)
    assert_parity(summaries)
    on_the_device(summaries)


def test_two_ranks_in_16_bits(tmp_path):
    """fp16's scaler must agree on all ranks; a residual network's stages end in what autocast computes in fp32."""
    layouts = [{"dp": 2}, {"dp": 2, "shard": "full"}, {"tp": 2}, {"pp": 2, "accumulation_steps": 4}]
    paths = write_runs(tmp_path, DEEP, layouts, PRECISIONS[1:] if PRETENDED else ("bf16", "fp16"), **SHARED)
    if not PRETENDED:
        paths += write_runs(
            tmp_path, DEEP, [layouts[3], layouts[0]], ("fp16",), recipe={"fused_optimizer": True}, **SHARED
        )
    paths += write_runs(tmp_path, IMAGES, [{"pp": 2, "accumulation_steps": 2}], ("bf16",), **SHARED)
    assert_parity(trained(2, paths))


def test_a_warned_run_goes_on_bit_for_bit(tmp_path):
    adam = {**DEEP, "optimizer": {"name": "adamw", "learning_rate": 0.001}}
    short = {"warmup_steps": 2, "steps": 12, "parity_steps": 1, "metric_samples": 16, "idle_s": 0}
    layouts = [{"dp": 2, "shard": ["none", "full"]}, {"pp": 2, "accumulation_steps": 4}]
    paths = write_runs(tmp_path, adam, layouts, ("bf16",), **{**SHARED, "measure": short})
    trained(2, paths, ROOT / "tests/train/resume.py", HPC_ACCEL_TESTING="1")
    for path in paths:
        broken = path.parent.with_name(path.parent.name + "-broken")
        found = [summary_in(each) for each in (path.parent, broken)]
        assert found[1].attempt == 2
        assert found[0].losses.final.value == found[1].losses.final.value
        assert found[0].losses.first == found[1].losses.first


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_under_nccl(tmp_path):
    two = {"resources": {"ranks_per_node": 2, "gpus_per_node": 2}, "device": "cuda", "backend": "nccl"}
    layouts = [{"dp": 2, "shard": ["none", "full"]}, {"tp": 2}, {"pp": 2, "accumulation_steps": 4}]
    assert_parity(trained(2, write_runs(tmp_path, DEEP, layouts, **two)))
