"""Row 13: weights that part on one replica end the run, with the rank, the step and the parameter named."""

from __future__ import annotations

import re

import pytest

from tests.faults.started import prepare, start

MODEL = """
import os, torch
from torch import nn
from torch.utils.data import TensorDataset
built = []
class Loss(nn.Module):
    calls = 0
    def forward(self, outputs, targets):
        from mpi4py import MPI
        Loss.calls += 1
        if MPI.COMM_WORLD.rank == int(os.environ.get("DRIFT", -1)) and Loss.calls == 60:
            weight = built[-1][1].weight.data.view(-1)
            weight.view(torch.int32)[2] ^= 1  # the last bit of one number
        return nn.functional.mse_loss(outputs, targets)
def build():
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(60, 4), torch.randn(60, 1))
    built.append(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)))
    return built[-1], Loss(), data
"""


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("layout", "recipe", "who"),
    [
        ({"dp": 3}, {}, "on rank 1, other than on its 2 replicas"),
        ({"dp": 2}, {"average_every": 7}, ""),
        ({"dp": 2}, {}, "on ranks 0, 1, and which of them is right nobody can tell"),
    ],
)
def test_row_13(layout, recipe, who, tmp_path, monkeypatch):
    (tmp_path / "drift_of_test.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    workload = {"entry": "drift_of_test:build", "global_batch_size": 12}
    directory = prepare(
        tmp_path, layout, workload, recipe=recipe, checkpoint={"every_steps": 20}, measure={"steps": 400}
    )
    started = start(directory, DRIFT="1")
    if not who:  # replicas that train alone differ, until they are averaged
        assert started.wait(60) == 0, started.log()
        return
    assert started.wait(60) == 70, started.log()
    error = started.summary["error"]
    assert error["kind"] == "DriftError"
    assert re.search(r"weights drifted by step 60: 1\.weight differs ", error["message"])
    assert who in error["message"]
    kept = sorted(int(path.name.split("-")[1]) for path in (directory / "checkpoints").glob("step-*"))
    assert kept[-1] == 40, "never a state that has drifted"
