"""Weights of 1 GB leave four shards in 2 GB beyond what the ranks hold, page cache that is mapped included."""

import json

import pytest

from hpc_accel.train.tensor_file import name_and_start
from tests.mpirun import ROOT, check, mpirun
from tests.train.production.made import file_of, loaded, made

WIDTH, DEPTH = 4096, 15
WORKLOAD = {"name": "synthetic", "args": {"width": WIDTH, "depth": DEPTH, "samples": 8}, "global_batch_size": 8}
NUM_BYTES = DEPTH * (WIDTH**2 + WIDTH) * 4


@pytest.mark.mpi
@pytest.mark.timeout(400)
def test_a_gigabyte_from_four_shards(tmp_path):
    workload = {**WORKLOAD, "meta": True, "optimizer": {"name": "sgd", "learning_rate": 0.01}}
    measure = {"steps": 1, "parity_steps": 0, "metric_samples": 0}
    [path] = made(tmp_path, workload, [{"dp": 4, "shard": "full"}], every=1, measure=measure)
    output = check(mpirun(4, [ROOT / "tests/train/production/weights_memory.py", path], 350))
    found = [json.loads(line) for line in output.splitlines() if line.startswith('{"name"')]
    assert len(found) == 4
    assert NUM_BYTES > 1e9
    assert sum(each["bytes"] for each in found) < 2 * 2**30, found
    assert file_of(path.parent, "last").stat().st_size >= NUM_BYTES
    assert not file_of(path.parent, "best").exists(), "it names no metric"
    _, model = loaded(path)
    assert all(name_and_start(name)[1] is None for name in model.state_dict())
