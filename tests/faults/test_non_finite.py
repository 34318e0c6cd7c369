"""Row 28: the first NaN ends a run with rank and step, and the checkpoints from before are kept."""

from __future__ import annotations

import math
import re

import pytest

from hpc_accel.errors import NonFiniteError
from hpc_accel.train.finite import SKIPS, LossWatch
from tests.faults.started import prepare, start

MODEL = """
import os, torch
from torch import nn
from torch.utils.data import TensorDataset
WHERE = os.environ.get("NAN")
class Loss(nn.Module):
    calls = 0
    def forward(self, outputs, targets):
        from mpi4py import MPI
        Loss.calls += 1
        loss = nn.functional.mse_loss(outputs, targets)
        if WHERE and MPI.COMM_WORLD.rank == 1 and Loss.calls == 60:
            if WHERE == "loss":
                return loss * float("nan")
            outputs.register_hook(lambda gradient: gradient * float("nan"))
        return loss
def build():
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)), Loss(), data
"""


@pytest.mark.mpi
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_row_28(where, tmp_path, monkeypatch):
    (tmp_path / "nan_of_test.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    workload = {"entry": "nan_of_test:build", "global_batch_size": 16}
    directory = prepare(tmp_path, {"dp": 2}, workload, checkpoint={"every_steps": 20}, measure={"steps": 2000})
    started = start(directory, NAN=where)
    assert started.wait(60) == 70, started.log()
    error = started.summary["error"]
    assert error["kind"] == "NonFiniteError"
    if where == "loss":
        assert re.search(r"loss of step 5\d is nan on rank 1", error["message"])
    else:
        assert re.search(r"(after step 5\d|loss of step (5\d|60)) ", error["message"])
    assert "learning rate" in error["remedy"]
    kept = sorted(int(path.name.split("-")[1]) for path in (directory / "checkpoints").glob("step-??????"))
    assert kept
    assert kept[-1] <= 59, "never a state that is not finite"


def test_fp16_may_lose_some_steps_in_a_row():
    watch = LossWatch(0, "fp16")
    for step in range(3 * SKIPS):
        watch.see(step, math.inf if step % SKIPS else 1.0)
    watch.see(0, 1.0)
    for step in range(SKIPS):
        watch.see(step, math.nan)
    with pytest.raises(NonFiniteError, match="step 7"):
        watch.see(7, math.nan)
    with pytest.raises(NonFiniteError, match="rank 3"):
        LossWatch(3, "bf16").see(0, math.inf)
