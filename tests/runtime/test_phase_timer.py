"""Times of a step on a GPU are the device's, placed on the host's clock, and the host does not wait for them."""

import time
from types import SimpleNamespace

import pytest
import torch

from hpc_accel.runtime import cuda_timer, in_flight
from hpc_accel.runtime.copies import Copies
from hpc_accel.runtime.cuda_timer import CudaTimer
from hpc_accel.runtime.in_flight import StepInFlight, read_later
from tests.runtime.fake_cuda import FakeDevice

GPU = torch.device("cuda", 0)
NEAR_MS = 40.0
"""What a busy machine may add to a sleep."""


@pytest.fixture
def device(monkeypatch):
    return FakeDevice(monkeypatch)


def run_step(clock, device, *, load_s=0.0, forward_ms=30.0, backward_ms=40.0):
    """One step, launched."""
    clock.begin()
    with clock.phase("data"):
        time.sleep(load_s)
    with clock.phase("forward"):
        device.launch(forward_ms)
    with clock.phase("backward"):
        device.launch(backward_ms)
    return clock.finish()


def milliseconds(phases):
    return {phase.name: phase.duration_ns / 1e6 for phase in phases}


def test_the_phases_add_up_to_the_step_and_loading_counts_where_the_device_waits_for_it(device):
    step, phases = run_step(CudaTimer(GPU), device, load_s=0.05)()
    found = milliseconds(phases)
    assert found["data"] == pytest.approx(50, abs=NEAR_MS)
    assert found["data"] >= 50 - 0.001
    assert found["forward"] == pytest.approx(30, abs=NEAR_MS)
    assert found["backward"] == pytest.approx(40, abs=NEAR_MS)
    assert sum(found.values()) == pytest.approx(step.duration_ns / 1e6, abs=NEAR_MS / 4)
    assert all(step.start_ns <= phase.start_ns <= phase.end_ns <= step.end_ns for phase in phases)


def test_the_host_runs_ahead_and_what_it_does_meanwhile_costs_nothing(device):
    clock = CudaTimer(GPU)
    began = time.perf_counter()
    first = run_step(clock, device, forward_ms=150, backward_ms=150)
    second = run_step(clock, device, load_s=0.05)
    assert time.perf_counter() - began < 0.25, "nobody waited for the device"
    assert device.num_synchronised == 1, "for the origin"
    (one, _), (two, phases) = first(), second()
    assert milliseconds(phases)["data"] == pytest.approx(0, abs=1)
    assert two.duration_ns / 1e6 == pytest.approx(70, abs=2)
    assert sum(milliseconds(phases).values()) == pytest.approx(two.duration_ns / 1e6, abs=0.01)
    assert one.end_ns <= two.start_ns + 10_000


def test_times_are_the_hosts(device):
    before = time.perf_counter_ns()
    step, _ = run_step(CudaTimer(GPU), device)()
    assert before <= step.start_ns <= before + NEAR_MS * 1e6
    assert step.end_ns <= time.perf_counter_ns()


def test_an_old_origin_is_not_used_and_none_survives_what_is_no_step(device, monkeypatch):
    clock = CudaTimer(GPU)
    run_step(clock, device)()
    run_step(clock, device)()
    assert device.num_synchronised == 1
    clock.settle()
    run_step(clock, device)()
    assert device.num_synchronised == 2
    monkeypatch.setattr(cuda_timer, "MAX_ORIGIN_AGE_NS", 0)
    step, _ = run_step(clock, device)()
    assert device.num_synchronised == 3
    assert step.duration_ns / 1e6 == pytest.approx(70, abs=NEAR_MS)


def test_a_loss_is_read_without_waiting_for_later_work(device, monkeypatch):
    pinned = []

    class Host:
        def copy_(self, value, non_blocking):
            assert non_blocking

        def __float__(self):
            return 2.5

    monkeypatch.setattr(in_flight.torch, "empty", lambda *_, pin_memory, **__: pinned.append(pin_memory) or Host())
    device.launch(40)
    loss = read_later(SimpleNamespace(device=GPU, shape=(), dtype=torch.float32))
    device.launch(5000)
    began = time.perf_counter()
    assert loss() == 2.5
    assert 0.02 < time.perf_counter() - began < 1
    assert pinned == [True]


def test_a_step_is_asked_for_once():
    asked = []
    flight = StepInFlight(lambda: asked.append(1) or (None, []), lambda: 0.5)
    assert flight.result() is flight.result()
    assert (asked, flight.result().loss) == ([1], 0.5)


class Pinned:
    """A tensor that says what is done with it."""

    def __init__(self, calls):
        self.calls = calls

    def moved(self, device, non_blocking):
        self.calls.append(("to", non_blocking))
        return self

    def mapped(self, function):
        function(self)

    def record_stream(self, stream):
        self.calls.append(("record_stream", stream))


def test_pinned_batches_are_copied_on_a_stream_of_their_own(monkeypatch):
    calls = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            calls.append(("enter", self.name))

        def __exit__(self, *_):
            calls.append(("leave", self.name))

        def wait_stream(self, other):
            calls.append(("wait", other.name))

    current = Stream("current")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    Copies(GPU, pinned=True)([Pinned(calls)])
    assert calls == [
        ("enter", "copies"),
        ("to", True),
        ("leave", "copies"),
        ("wait", "copies"),
        ("record_stream", current),
    ]
    calls.clear()
    Copies(GPU, pinned=False)([Pinned(calls)])
    assert calls == [("to", False)]
