"""How a step tells its figures, and on what it computes. A line of JSON behind MARK is read by check.py."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch

MARK = "FIGURE "
PRETENDED = os.environ.get("HPC_ACCEL_PRETEND_GPU") == "1"
DEVICE = torch.device("cpu" if PRETENDED else "cuda")


def figure(name: str, value: Any, unit: str = "", *, low: float | None = None, high: float | None = None) -> None:
    """Tell one figure. With `low` or `high` it passes if it lies within; without, it only informs."""
    passed = None
    if low is not None or high is not None:
        passed = value is not None and (low is None or value >= low) and (high is None or value <= high)
    wanted = {"low": low, "high": high}
    line = {"name": name, "value": value, "unit": unit, "wanted": wanted, "passed": passed}
    sys.stdout.write(MARK + json.dumps(line, default=str) + "\n")
    sys.stdout.flush()


def verdict(name: str, passed: bool, why: str = "") -> None:
    """Tell whether something held, and if not, why."""
    line = {
        "name": name,
        "value": bool(passed) if passed else why or False,
        "unit": "",
        "wanted": {},
        "passed": bool(passed),
    }
    sys.stdout.write(MARK + json.dumps(line, default=str) + "\n")
    sys.stdout.flush()


def size(full: Any, small: Any) -> Any:
    """`full` on a card, `small` on a pretended one."""
    return small if PRETENDED else full


def settle() -> None:
    """Wait for the device."""
    if not PRETENDED:
        torch.cuda.synchronize()
