"""Weights leave every layout under the model's own names, and plain torch computes with them what the ranks did."""

import importlib.util

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from hpc_accel.study.run_file import read_run
from hpc_accel.workloads import entry
from tests.mpirun import ROOT, check, mpirun
from tests.records import summary_in
from tests.train.production.made import SHORT, file_of, loaded, made, metric_of
from tests.train.test_catalogue import SKIPS
from tests.train.test_layouts import LM

SCRIPT = ROOT / "tests/train/many.py"
GPT2 = {"name": "hf", "global_batch_size": 8}
STILL = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # each layout draws dropout of its own
GPT2["args"] = {"sequence": 16, "overrides": {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 256, **STILL}}
NORMED = {"name": "vision", "args": {"model": "resnet18", "samples": 32, "norm": "batch"}, "global_batch_size": 8}
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


def check_weights(paths):
    """What the ranks saw last is what the file's weights give, and they are those of the other layouts."""
    by_workload = {}
    for path in paths:
        run = read_run(path)
        built, model = loaded(path) if "hf" not in run.workload.name else from_pretrained(path)
        last = pl.read_parquet(path.parent / "metrics.parquet").row(-1, named=True)
        assert last["step"] == run.measure.steps
        assert metric_of(built, SHORT["metric_samples"]) == pytest.approx(
            last[f"held_out_{built.metric.name}"], rel=1e-4
        )
        summary = summary_in(path.parent)
        assert summary.status == "completed"
        assert summary.production.weights.keys() == {"last", "best"}
        assert file_of(path.parent, "best").exists()
        assert not list(path.parent.glob("weights/*/parts.partial"))
        state = model.state_dict()
        named = run.workload.model_copy(update={"weights": str(file_of(path.parent, "last").parent)})
        again = entry.build(named, run.seed + 1).model.state_dict()
        assert all(torch.equal(tensor, again[name]) for name, tensor in state.items()), "a study's key `weights`"
        first = by_workload.setdefault((run.workload.name, run.workload.meta, run.recipe.average_every), state)
        for name, tensor in state.items():
            assert tensor.dtype == first[name].dtype
            # AdamW makes steps of its own size of gradients that are rounding alone: those of keys' biases.
            assert torch.allclose(tensor, first[name], rtol=1e-3, atol=1e-3), (path, name)


def from_pretrained(path):
    """The same for a model of transformers, which reads a directory of its own form."""
    from transformers import AutoModelForCausalLM

    run, directory = read_run(path), file_of(path.parent, "last").parent
    built = entry.build(run.workload, run.seed)
    built.model.model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True)
    assert type(built.model.model).__name__ in (directory / "config.json").read_text()
    bare = {f"model.{name}": tensor for name, tensor in load_file(directory / "model.safetensors").items()}
    built.model.load_state_dict(bare)
    return built, built.model.eval()


@pytest.mark.mpi
def test_two_ranks(tmp_path):
    """Replicas, stages, tensor parts, both kinds of shards; local SGD; running statistics; tied and late weights."""
    digits = [{"dp": 2}, {"pp": 2, "accumulation_steps": 4}, {"tp": 2}]
    digits += [{"dp": 2, "shard": "full"}, {"dp": 2, "shard": "optimizer"}]
    paths = made(tmp_path / "digits", {"name": "digits"}, digits)
    paths += made(tmp_path / "sgd", {"name": "digits"}, [{"dp": 2}], every=3, recipe={"average_every": 3})
    four = {**LM, "args": {**LM["args"], "layers": 4}}
    zbv = {"pp": 2, "schedule": "zbv_zero_bubble", "accumulation_steps": 4}
    paths += made(tmp_path / "lm", four, [{"tp": 2}, zbv, {"dp": 2, "shard": "full"}])
    paths += made(
        tmp_path / "meta", {**LM, "meta": True}, [{"dp": 2, "shard": "full"}, {"pp": 2, "accumulation_steps": 2}]
    )
    norms = [{"dp": 2}, {"dp": 2, "shard": "full"}]
    paths += made(tmp_path / "norms", NORMED, norms, recipe={"sync_batch_norm": True})
    if HAS_TRANSFORMERS:
        paths += made(
            tmp_path / "hf", GPT2, [{"dp": 2}, {"pp": 2, "accumulation_steps": 2}, {"dp": 2, "shard": "full"}]
        )
    check(mpirun(2, [SCRIPT, *paths], 400))
    check_weights(paths)
    [normed] = [path for path in paths if "vision-dp2-fp32" in str(path)]
    state = load_file(file_of(normed.parent, "last"))
    counts = [int(value) for name, value in state.items() if name.endswith("num_batches_tracked")]
    assert set(counts) == {SHORT["steps"]}


@pytest.mark.mpi
def test_four_ranks(tmp_path):
    """Layouts that divide a model in two ways."""
    layouts = [
        {"dp": 2, "tp": 2, "shard": "full"},
        {"pp": 2, "dp": 2, "shard": "full", "accumulation_steps": 2},
        {"pp": 2, "tp": 2, "accumulation_steps": 2},
        {"dp": 4, "shard": "full"},
    ]
    paths = made(tmp_path / "lm", {**LM, "args": {**LM["args"], "hidden": 30}}, layouts)
    if HAS_TRANSFORMERS:
        paths += made(tmp_path / "hf", GPT2, [layouts[1], layouts[2]])
    check(mpirun(4, [SCRIPT, *paths], 400))
    check_weights(paths)


@pytest.mark.mpi
def test_stages_that_a_tracer_cut(tmp_path, monkeypatch):
    """They are evaluated between steps, by torch's schedule, and train on as if they had not been."""
    (tmp_path / "skips_model.py").write_text(SKIPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    layouts = [{"dp": 2}, {"pp": 2, "schedule": ["gpipe", "1f1b"], "accumulation_steps": 4}]
    paths = made(tmp_path, {"entry": "skips_model:build", "global_batch_size": 32}, layouts, every=2)
    check(mpirun(2, [SCRIPT, *paths], 200, PYTHONPATH=f"{ROOT}:{tmp_path}"))
    check_weights(paths)
    curves = [pl.read_csv(path.parent / "metrics.csv")["loss"].to_list() for path in paths]
    assert all(curve == pytest.approx(curves[0], rel=1e-4) for curve in curves)
