"""What only a GPU does: its arithmetic, its memory, its copies. Runs where one is."""

import json

import pytest
import torch

from tests.mpirun import check, mpirun
from tests.train.test_layouts import LM, SCRIPT, assert_parity, write_runs

WIDE = {**LM, "args": {**LM["args"], "hidden": 64, "heads": 4}}
ONE = {"resources": {"ranks_per_node": 1, "gpus_per_node": 1}, "device": "cuda"}
pytestmark = [pytest.mark.gpu, pytest.mark.mpi]


def trained(n, paths):
    check(mpirun(n, [SCRIPT, *paths], 400))
    return {path.parent.name: json.loads((path.parent / "summary.json").read_text()) for path in paths}


def test_one_gpu_computes_every_recipe(tmp_path):
    recipes = [
        {"precision": ["fp32", "tf32", "bf16", "fp16"]},
        {"compile": True},
        {"recompute": ["selective", "full"]},
        {"offload": "activations"},
        {"pin_memory": True, "data_workers": 1},
        {"fused_optimizer": True},
    ]
    paths = []
    for recipe in recipes:
        precisions = recipe.pop("precision", ["fp32"])
        paths += write_runs(tmp_path, WIDE, [{}], precisions, recipe, **ONE)
    summaries = trained(1, paths)
    assert_parity(summaries)
    assert {summary["device"] for summary in summaries.values()} == {"cuda"}


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="no 8-bit products on this GPU"
)
def test_fp8_trains_nearly_the_same(tmp_path):
    pytest.importorskip("torchao.float8", reason="needs torchao: pip install 'hpc-accel[fp8]'")
    summaries = trained(1, write_runs(tmp_path, WIDE, [{}], ("fp8",), **ONE))
    assert_parity(summaries)
    assert all(summary["parity"]["max_rel_err"] > 1e-5 for summary in summaries.values()), "8 bits leave a trace"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_divide_and_exchange(tmp_path):
    two = {"resources": {"ranks_per_node": 2, "gpus_per_node": 2}, "device": "cuda"}
    layouts = [
        {"dp": 2, "shard": ["none", "optimizer", "full"]},
        {"tp": 2, "sequence_parallel": [False, True]},
        {"pp": 2, "accumulation_steps": 4, "schedule": ["1f1b", "zbv_zero_bubble"]},
    ]
    deep = {**WIDE, "args": {**WIDE["args"], "layers": 4}}
    paths = write_runs(tmp_path, deep, layouts, **two)
    paths += write_runs(tmp_path, deep, [{"dp": 2, "shard": "full"}], recipe={"offload": "parameters"}, **two)
    paths += write_runs(tmp_path, deep, [{"dp": 2}], recipe={"compression": ["bf16", "powersgd"]}, **two)
    for backend in ("mpi4py", "nccl"):
        assert_parity(trained(2, list(with_backend(paths, backend, tmp_path))))


def with_backend(paths, backend, directory):
    """The same runs carried by another backend."""
    from hpc_accel.study.schema import Run

    for path in paths:
        content = json.loads(path.read_text())
        run = Run.model_validate({**content, "backend": backend, "run_id": ""})
        changed = directory / backend / run.run_id / "run.json"
        changed.parent.mkdir(parents=True, exist_ok=True)
        changed.write_text(run.model_dump_json())
        yield changed
