"""Peak memory of this process: resident set on the host; on the device what tensors have, and what torch holds.

The kernel keeps the highest resident set of a process in VmHWM; writing 5 to /proc/self/clear_refs starts
it anew, so that the peak of the timed steps is not the peak of the imports before them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK_RSS = "5"


def _cuda(device: Any) -> Any | None:
    """torch.cuda when `device` names one; torch is already loaded wherever a CUDA device is used."""
    if not str(getattr(device, "type", device)).startswith("cuda"):
        return None
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None else None


def reset_peak(device: Any = "cpu") -> bool:
    """Start the peak anew; False when the kernel does not allow it, and the peak is then that of the whole process."""
    cuda = _cuda(device)
    if cuda is not None:
        cuda.reset_peak_memory_stats(device)
        return True
    try:
        descriptor = os.open(_CLEAR_REFS, os.O_WRONLY)
    except OSError:
        return False
    try:
        os.write(descriptor, _RESET_PEAK_RSS.encode())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _status_bytes(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def peak_bytes(device: Any = "cpu") -> int | None:
    """Highest memory since `reset_peak`: device memory for CUDA, resident set for CPU; None where unknown."""
    cuda = _cuda(device)
    if cuda is not None:
        return int(cuda.max_memory_allocated(device))
    return _status_bytes("VmHWM")


def scope(device: Any = "cpu") -> str:
    """What `peak_bytes` counts, in words for the report."""
    return "device memory allocated" if _cuda(device) is not None else "resident set"


def reserved_bytes(device: Any) -> int | None:
    """Highest memory since `reset_peak` that torch holds on a CUDA device, tensors and free reserve; None on a CPU.

    What it is above `peak_bytes` is fragmentation, and room kept for the next tensors.
    """
    cuda = _cuda(device)
    return int(cuda.max_memory_reserved(device)) if cuda is not None else None


def device_used_bytes(device: Any) -> int | None:
    """Memory of a CUDA device in use now, by whomever: CUDA contexts, communication and library workspaces too.

    None on a CPU. This decides whether a run fits on the card.
    """
    cuda = _cuda(device)
    if cuda is None:
        return None
    free, total = cuda.mem_get_info(device)
    return int(total - free)
