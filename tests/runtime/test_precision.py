"""Scaled gradients: a step is taken by all ranks or by none, whatever kind of optimizer takes it."""

import pytest
import torch
import torch.distributed as dist

from hpc_accel.runtime.precision import make_scaler
from tests.mpirun import ROOT, check, mpirun
from tests.train.test_layouts import LM, assert_parity, train_all, write_runs


@pytest.mark.mpi
def test_an_overflow_on_one_rank_is_skipped_on_both():
    check(mpirun(2, ROOT / "tests/train/overflow.py", 60))


@pytest.mark.parametrize("fused", [False, True])
def test_every_optimizer_asks_the_other_ranks(fused, monkeypatch):
    asked = []

    class Done:
        def wait(self):
            pass

    monkeypatch.setattr(dist, "all_reduce", lambda tensor, **_: asked.append(tensor) or Done())
    scaler = make_scaler("fp16", torch.device("cpu"))
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weight], fused=fused)
    scaler.scale(weight.sum()).backward()
    scaler.step_together(optimizer)
    assert len(asked) == 1
    assert (weight < 1).all()


@pytest.mark.mpi
def test_stages_train_in_fp16_with_a_fused_optimizer(tmp_path):
    adam = {**LM, "optimizer": {"name": "adamw", "learning_rate": 0.001}}
    layouts = [{"pp": 2, "accumulation_steps": 2}, {"dp": 2, "shard": "optimizer"}]
    assert_parity(train_all(2, write_runs(tmp_path, adam, layouts, ("fp16",), {"fused_optimizer": True})))
