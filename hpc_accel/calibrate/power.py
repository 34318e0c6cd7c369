"""What power a node draws while some of its ranks take a measurement's steps, and the others sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hpc_accel.measure.energy.aggregate import UPDATES_WANTED
from hpc_accel.measure.energy.gpus_in_use import uuid_of
from hpc_accel.measure.energy.meter import EnergyMeter
from hpc_accel.probe.network import rest
from hpc_accel.runtime.step import Stepper

WINDOW_S = 3.0
"""Steps go on for at most so long."""
FEWEST_UPDATES = 20
"""A sensor that updates less often in a window is off by more than a tenth."""


def readable(node: Any) -> bool:
    """Whether a sensor of this node tells power in a window. Collective over `node`; the same on all ranks."""
    with EnergyMeter(node) as meter:
        return meter.can_read and meter.min_window_s * FEWEST_UPDATES / UPDATES_WANTED <= WINDOW_S


class NodePower:
    """One measurement's power. Each rank of the node calls `draw` or, without steps of its own, `stand_by`."""

    def __init__(self, node: Any, device: Any | None) -> None:
        """`device` is what this rank computes on; None where it takes no part."""
        self.node = node
        self.gpu = uuid_of(device) if device is not None else ""
        self.entered = False

    def draw(self, stepper: Stepper, comm: Any) -> float | None:
        """Watts while all copies step; None where a copy failed before or the sensors did not answer."""
        return self._window(lambda: _keep_stepping(stepper, comm), well=True)

    def stand_by(self, *, failed: bool) -> None:
        """Of a rank that takes no part, or whose copy failed: without it the others would wait for ever."""
        if not self.entered:
            self._window(lambda: None, well=not failed)

    def _window(self, work: Callable[[], None], *, well: bool) -> float | None:
        self.entered = True
        rest(self.node)
        if not all(self.node.allgather(well)):
            return None
        with EnergyMeter(self.node, gpu=self.gpu) as meter:
            with meter.window("calibration") as window:
                work()
                rest(self.node)  # whoever takes no part sleeps
            energy = window.result
        return None if energy.is_partial else energy.power_w


def _keep_stepping(stepper: Stepper, comm: Any) -> None:
    """Steps for `WINDOW_S`, the same number on all ranks of `comm`, device work included."""
    end = time.monotonic() + WINDOW_S
    while comm.bcast(time.monotonic() < end, root=0):
        stepper.step()
    stepper.settle()
