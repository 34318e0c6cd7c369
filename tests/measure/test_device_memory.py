"""What a GPU's memory holds, seen through a stand-in for torch.cuda: tensors, torch's reserve, and everything else."""

from types import SimpleNamespace

import pytest
import torch

from hpc_accel.measure import peak_memory

GIB = 1 << 30


@pytest.fixture
def card(monkeypatch):
    """A card of 80 GiB: 10 in tensors at most, 14 held by torch, 17 in use with contexts and libraries."""
    figures = {
        "max_memory_allocated": 10 * GIB,
        "max_memory_reserved": 14 * GIB,
        "mem_get_info": (63 * GIB, 80 * GIB),
    }
    asked = []

    def answer(name):
        return lambda device: asked.append((name, device)) or figures[name]

    monkeypatch.setattr(torch, "cuda", SimpleNamespace(**{name: answer(name) for name in figures}))
    return asked


def test_reserve_and_use_stand_beside_the_peak_of_tensors(card):
    device = torch.device("cuda", 3)
    found = peak_memory.peak_bytes(device), peak_memory.reserved_bytes(device), peak_memory.device_used_bytes(device)
    assert found == (10 * GIB, 14 * GIB, 17 * GIB)
    assert {where for _, where in card} == {device}


def test_a_cpu_has_neither():
    assert peak_memory.reserved_bytes(torch.device("cpu")) is None
    assert peak_memory.device_used_bytes("cpu") is None
