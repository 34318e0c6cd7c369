"""Is a layout computing the same thing? Its first losses are compared with a serial fp32 run of the same seed.

The reference runs on rank 0 after the timed steps, so that it disturbs neither their time nor their memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from hpc_accel.parallel.mesh import make_place
from hpc_accel.study.schema import Run
from hpc_accel.train.build import make_stepper
from hpc_accel.workloads import entry


def serial_losses(run: Run, device: torch.device) -> list[float]:
    """Losses of the first `parity_steps` steps on one rank in fp32, in micro-batches of the run's size."""
    total = run.workload.global_batch_size
    micro = run.layout.micro_batch_size
    layout = run.layout.model_copy(
        update={"dp": 1, "pp": 1, "tp": 1, "schedule": None, "split": "auto", "accumulation_steps": total // micro}
    )
    workload = entry.build(run.workload, run.seed)
    stepper = make_stepper(run, workload, make_place(layout, 0, device.type), device, precision="fp32", split=None)
    return [value for _ in range(run.measure.parity_steps) if (value := stepper.step().loss) is not None]


def compare(run: Run, losses: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """The `parity` object of summary.json. Losses that are not finite differ by definition."""
    tolerance = run.measure.parity_tolerance
    result: dict[str, Any] = {
        "max_rel_err": None,
        "tolerance": tolerance,
        "steps": len(reference),
        "reference": "serial fp32, same seed and samples",
        "passed": False,
        "reason": None,
    }
    if not reference:
        return {**result, "reason": "the study sets parity_steps: 0"}
    if not all(map(math.isfinite, [*losses[: len(reference)], *reference])):
        return {**result, "reason": "a loss is not finite"}
    errors = [abs(a - b) / max(abs(b), 1e-12) for a, b in zip(losses, reference, strict=False)]
    result["max_rel_err"] = max(errors)
    result["passed"] = tolerance is not None and result["max_rel_err"] <= tolerance
    if not result["passed"]:
        result["reason"] = f"losses differ by {result['max_rel_err']:.2g} relative to the serial run"
    return result
