"""Mixed precision by torch.amp: weights stay fp32, matrix products run in fewer bits, fp16 gradients are scaled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from hpc_accel.runtime.scaler import Scaler

AUTOCAST: dict[str, torch.dtype | None] = {
    "fp32": None,
    "tf32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.bfloat16,  # of what has no 8-bit kernel
}


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Let fp32 products on a GPU be TF32 or not, inside only. Torch's own default allows it for convolutions."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def make_scaler(precision: str, device: torch.device) -> Scaler | None:
    """A gradient scaler for fp16, or None; imported only then."""
    if precision != "fp16":
        return None
    from hpc_accel.runtime.scaler import Scaler

    group = dist.group.WORLD if dist.is_initialized() else None
    return Scaler(device, init_scale=2.0**12, process_group=group)
