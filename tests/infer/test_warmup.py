"""Every size that open loop can meet is run before it is timed, and requests come from memory a GPU copies from."""

from types import SimpleNamespace

import pytest
import torch

from hpc_accel.infer import setup as sessions
from hpc_accel.infer.setup import Session, gathered
from hpc_accel.infer.warmup import MAX_SIZES, run_sizes, sizes_met


@pytest.mark.parametrize(
    ("batch_size", "fixed_size", "sizes"),
    [
        (1, False, [1]),
        (5, False, [1, 2, 3, 4, 5]),
        (8, True, [8]),
        (64, False, [1, 2, 4, 8, 16, 32, 64]),
        (100, False, [1, 2, 4, 8, 16, 32, 64, 100]),
    ],
)
def test_sizes_are_all_or_powers_of_two_up_to_the_batch_size(batch_size, fixed_size, sizes):
    assert sizes_met(batch_size, fixed_size=fixed_size) == sizes
    assert len(sizes_met(MAX_SIZES, fixed_size=False)) == MAX_SIZES


def test_each_size_is_served_once():
    served = []
    pool = (torch.arange(3.0),)
    session = SimpleNamespace(
        infer=SimpleNamespace(batch_size=4),
        model=SimpleNamespace(fixed_size=False),
        replica=SimpleNamespace(drive=lambda work: work(), run=served.append),
        pool=pool,
        device=torch.device("cpu"),
    )
    session.samples = lambda numbers: Session.samples(session, numbers)
    run_sizes(session)
    assert [inputs[0].tolist() for inputs in served] == [[0.0], [0.0, 1.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0, 0.0]]


def test_samples_for_a_gpu_are_gathered_into_pinned_memory(monkeypatch):
    asked = []

    def empty(*shape, dtype, device, pin_memory):  # this machine may have nothing that pins
        asked.append((device, pin_memory))
        return torch.zeros(*shape, dtype=dtype)

    pool, chosen = torch.randint(0, 9, (7, 2, 3)), torch.tensor([6, 0, 6])
    plain = gathered(pool, chosen, pinned=False)
    monkeypatch.setattr(sessions, "torch", SimpleNamespace(empty=empty, index_select=torch.index_select))
    pinned = gathered(pool, chosen, pinned=True)
    assert asked == [("cpu", True)]
    assert pinned.dtype == plain.dtype
    assert (pinned == plain).all() and (plain == pool[chosen]).all()
