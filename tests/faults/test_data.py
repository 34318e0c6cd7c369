"""Row 29: what cannot be read, or does not make a batch, is named by its number and by the line that failed."""

from __future__ import annotations

import pytest

from tests.faults.started import prepare, start

pytestmark = pytest.mark.mpi

MODULE = """
import os, sys
import torch
from torch import nn
class Records(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        fault = os.environ.get("BROKEN") if index == 37 else None
        if fault == "raises":
            raise ValueError("bad record in shard-3.bin")
        if fault == "leaves":
            sys.exit(0)
        if fault == "goes":
            os._exit(0)
        return torch.randn(5 if fault == "shape" else 4), torch.randn(1)
def build():
    return nn.Linear(4, 1), nn.functional.mse_loss, Records()
"""


@pytest.mark.parametrize(
    ("fault", "workers", "told"),
    [
        ("raises", 1, ["sample 37 of the data set: ValueError: bad record in shard-3.bin", "records_of_test.py:11"]),
        ("leaves", 1, ["sample 37 of the data set: SystemExit: 0", "records_of_test.py:13"]),
        ("goes", 1, ["sample 37 of the data set: RuntimeError: os._exit(0)", "records_of_test.py:15"]),
        ("shape", 0, ["37"]),
    ],
)
def test_row_29_a_sample_that_cannot_be_used_is_named(tmp_path, monkeypatch, fault, workers, told):
    (tmp_path / "records_of_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    workload = {"entry": "records_of_test:build", "global_batch_size": 32}
    directory = prepare(tmp_path, {"dp": 2}, workload, recipe={"data_workers": workers}, measure={"steps": 20})
    started = start(directory, BROKEN=fault)
    assert started.wait(60) in (65, 78), started.log()
    error = started.summary["error"]
    assert error["rank"] in (0, 1)
    for words in told:
        assert words in error["message"]
