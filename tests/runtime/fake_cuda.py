"""A device that only takes time: work is launched at once and runs later, events are moments of its queue."""

import time
from contextlib import nullcontext

import numpy as np
import torch


class FakeDevice:
    """Stands in for torch.cuda. `launch(ms)` is a kernel; `num_synchronised` counts waits for the whole device."""

    def __init__(self, monkeypatch):
        self.free_at_ns = 0
        self.num_synchronised = 0
        device = self

        class Event:
            def __init__(self, enable_timing=False):
                self.enable_timing = enable_timing

            def record(self, stream=None):
                self.at_ns = max(time.perf_counter_ns(), device.free_at_ns)

            def synchronize(self):
                device.sleep_until(self.at_ns)

            def elapsed_time(self, other):
                assert self.enable_timing and other.enable_timing
                assert max(self.at_ns, other.at_ns) <= time.perf_counter_ns(), "torch raises: device not ready"
                return float(np.float32((other.at_ns - self.at_ns) / 1e6))

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: None)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronise)

    def launch(self, milliseconds):
        self.free_at_ns = max(time.perf_counter_ns(), self.free_at_ns) + round(milliseconds * 1e6)

    def synchronise(self, device=None):
        self.num_synchronised += 1
        self.sleep_until(self.free_at_ns)

    @staticmethod
    def sleep_until(at_ns):
        while (left_ns := at_ns - time.perf_counter_ns()) > 0:
            time.sleep(left_ns / 1e9)
