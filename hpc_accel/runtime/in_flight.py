"""A step that was launched, and what is known of it once it is through."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from hpc_accel.runtime.phase_timer import PhaseSpan, Timing

Reading = Callable[[], float]
"""Gives a number, waiting for it if need be."""


class StepResult(NamedTuple):
    """What one rank saw of one step. `loss` is its share's part of the mean; None where no loss is computed.

    `learning_rate` is that of the first parameter group in this step, `grad_norm` that of the whole model's gradient
    before it was clipped; None where there is none.
    """

    step: PhaseSpan
    phases: list[PhaseSpan]
    loss: float | None
    learning_rate: float | None = None
    grad_norm: float | None = None


class StepInFlight:
    """A step whose work is launched."""

    __slots__ = ("_found", "_grad_norm", "_learning_rate", "_loss", "_timing")

    def __init__(
        self,
        timing: Timing,
        loss: Reading | None,
        learning_rate: float | None = None,
        grad_norm: Reading | None = None,
    ) -> None:
        self._timing: Timing | None = timing
        self._loss = loss
        self._learning_rate = learning_rate
        self._grad_norm = grad_norm
        self._found: StepResult | None = None

    def result(self) -> StepResult:
        """What it came to; waits until it is through."""
        if self._found is None:
            assert self._timing is not None
            step, phases = self._timing()
            loss = None if self._loss is None else self._loss()
            norm = None if self._grad_norm is None else self._grad_norm()
            self._found = StepResult(step, phases, loss, self._learning_rate, norm)
            self._timing = self._loss = self._grad_norm = None  # events and host memory are free for later steps
        return self._found


def read_later(value: torch.Tensor) -> Reading:
    """Read a scalar when it is asked for, which on a device must not wait for what is launched after this call."""
    if value.device.type != "cuda":
        return lambda: float(value)
    host = torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=True)
    host.copy_(value, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(value.device))

    def read() -> float:
        arrived.synchronize()
        return float(host)

    return read
