"""A rank that fails ends the others at once, says why once, and leaves a file that names it."""

import json
import time
from pathlib import Path

import pytest

from tests.mpirun import ROOT, mpirun
from tests.train.test_layouts import SCRIPT, write_runs

MODEL = """
import torch
from torch import nn
from torch.utils.data import Dataset
class Data(Dataset):
    def __len__(self): return 64
    def __getitem__(self, index):
        from mpi4py import MPI
        Data.reads = getattr(Data, "reads", 0) + 1
        if MPI.Is_initialized() and MPI.COMM_WORLD.rank == 1 and Data.reads > 30: FAULT
        return torch.full((4,), float(index)), torch.zeros(1)
def build():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), nn.functional.mse_loss, Data()
"""


def run_with(fault, tmp_path, monkeypatch):
    name = f"failing_{abs(hash(fault))}"
    (tmp_path / f"{name}.py").write_text(MODEL.replace("FAULT", fault))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    workload = {"entry": f"{name}:build", "global_batch_size": 16}
    [path] = write_runs(tmp_path, workload, [{"dp": 2}])
    started = time.monotonic()
    done = mpirun(2, [SCRIPT, path], 90, PYTHONPATH=f"{tmp_path}:{ROOT}")
    return path.parent, done, time.monotonic() - started


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ('raise RuntimeError("bad record 7")', "RuntimeError: bad record 7"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_one_rank_fails(fault, told, tmp_path, monkeypatch):
    directory, done, _ = run_with(fault, tmp_path, monkeypatch)
    assert done.returncode not in (0, 124), done.stdout
    error = json.loads((directory / "error.rank1.json").read_text())
    assert error["kind"] == "DataError" and told in error["message"]
    assert error["rank"] == 1
    assert Path(error["where"].partition(":")[0]).parent == tmp_path, "the line of the user"
    assert not (directory / "summary.json").exists()
    assert error["exit_code"] == 65


@pytest.mark.mpi
def test_a_world_of_another_size_is_refused(tmp_path):
    [path] = write_runs(tmp_path, {"name": "mlp"}, [{"dp": 2}])
    done = mpirun(1, [SCRIPT, path], 90)
    assert done.returncode == 78, done.stdout
    assert "remedy" in done.stdout
