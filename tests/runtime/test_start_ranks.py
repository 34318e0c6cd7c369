"""A rank takes its device before groups are made: what makes them looks at the device that is current."""

from types import SimpleNamespace

import pytest
import torch

import hpc_accel.mpi
from hpc_accel.errors import ConfigError
from hpc_accel.mpi.launch import World
from hpc_accel.runtime import start_ranks
from tests.train.test_efficiency import make_run

PLACE = World(
    rank=1, size=2, local_rank=1, local_size=2, node_rank=0, num_nodes=1, hosts=("here",), host_of_rank=("here",) * 2
)


@pytest.fixture
def order(monkeypatch):
    calls = []
    monkeypatch.setattr(hpc_accel.mpi, "world", lambda: PLACE)
    monkeypatch.setattr(hpc_accel.mpi, "init", lambda backend, **_: calls.append("groups"))
    monkeypatch.setattr(start_ranks, "mpi", lambda: SimpleNamespace(COMM_WORLD="ranks", Finalize=lambda: None))
    monkeypatch.setattr(torch, "set_num_threads", lambda num: None)

    def choose(run, gpus_on_node, local_rank, comm):
        calls.append(f"device {local_rank} of {comm}")
        return torch.device("cpu")

    monkeypatch.setattr(start_ranks, "choose_device", choose)
    monkeypatch.setattr(start_ranks, "gpu_uuids", lambda device, comm: [])
    return calls


def test_the_device_comes_first(order, tmp_path):
    found = start_ranks.start_ranks(make_run(2), tmp_path)
    assert order == ["device 1 of ranks", "groups"]
    assert (found.rank, found.hosts, found.comm) == (1, ["here"], "ranks")
    assert found.num_gpus is None


def test_another_number_of_ranks_is_refused_before_anything(order, tmp_path):
    with pytest.raises(ConfigError, match=r"MPI has 2 rank\(s\), 4 were asked for"):
        start_ranks.start_ranks(make_run(4), tmp_path)
    assert order == []
