"""A pretended device: CPU tensors take the way of device tensors, on streams that check how they are used.

What is real: the copies, MPI, the threads, autograd. What is not: work is done when it is queued. `busy_s` is how long
the pretended device still computes after something was queued, which is what a timed event then says.
"""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext

import torch

from hpc_accel.mpi import device_times, group_executor, staging, work

DEVICE = torch.device("cpu")
busy_until_s = 0.0
clashes = []


def busy_s(seconds):
    """The device computes so long from now on."""
    global busy_until_s  # noqa: PLW0603
    busy_until_s = time.perf_counter() + seconds


class Event:
    """Reached when what was queued before it is done."""

    def __init__(self):
        self.at_s = max(time.perf_counter(), busy_until_s)

    def query(self):
        return time.perf_counter() >= self.at_s

    def synchronize(self):
        time.sleep(max(0.0, self.at_s - time.perf_counter()))

    def wait(self, stream=None):
        pass

    def elapsed_time(self, other):
        return (other.at_s - self.at_s) * 1e3


class Stream:
    """A stream object as torch 2.11 has them: entered by one thread at a time."""

    device = DEVICE

    def __init__(self):
        self._inside = False

    def __enter__(self):
        if self._inside:
            clashes.append(threading.current_thread().name)
            raise RuntimeError("Stream's context should not be initialized.")
        self._inside = True
        time.sleep(1e-5)  # others get their turn here, as they do while torch copies
        return self

    def __exit__(self, *_):
        self._inside = False

    def wait_event(self, event):
        pass


def pretend():
    """From now on in this process."""
    staging.direct = lambda tensors: not tensors
    staging.on_device = lambda tensors: DEVICE if tensors else None
    staging.new_stream = work.new_stream = lambda device: Stream()
    staging.same_stream = lambda stream: Stream()
    staging.staying_on = work.staying_on = lambda device: nullcontext()
    staging.pinned = lambda like: torch.empty(like.shape, dtype=like.dtype)
    staging.keep = lambda tensor, *streams: None
    staging.event_on = device_times.event_on = lambda stream, timed=False: Event()
    torch.accelerator.current_stream = lambda device=None: Stream()
    group_executor.GroupExecutor.try_all_reduce_here = lambda self, tensor, reduction: False
