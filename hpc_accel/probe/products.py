"""Matrix products in each precision a recipe can name, and which of them this device has.

tf32 is fp32 with products rounded to ten bits inside the GPU. fp8 is torch's scaled product: both sides in 8 bits
(e4m3), each with one scale, the result in bf16, as training multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "fp8")
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_IN_GPUS = "this arithmetic is in GPUs only"
FP8_MULTIPLE = 16
"""torch._scaled_mm takes widths that are multiples of this."""


def precisions_for(device: torch.device) -> tuple[list[str], dict[str, str]]:
    """Which precisions to measure, and why not the others."""
    if device.type != "cuda":
        reasons = {"fp16": "measured on GPUs only: loss scaling for fp16 is not used on a CPU"}
        return ["fp32", "bf16"], reasons | {"tf32": _IN_GPUS, "fp8": _IN_GPUS}
    missing = {"bf16": _no_bf16(), "tf32": _no_tf32(device), "fp8": _no_fp8(device)}
    reasons = {precision: why for precision, why in missing.items() if why is not None}
    return [precision for precision in PRECISIONS if precision not in reasons], reasons


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """fp32 products are rounded as `precision` says and nothing else is, whatever was set before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def product(device: torch.device, precision: str, rows: int, width: int) -> Callable[[], torch.Tensor]:
    """A call that multiplies [rows, width] by [width, width]; fp8 rounds both up to what it takes."""
    if precision == "fp8":
        return _fp8_product(device, rows, width)
    left = torch.randn(rows, width, device=device).to(_DTYPES[precision])
    right = torch.randn(width, width, device=device).to(_DTYPES[precision])
    return lambda: torch.mm(left, right)


def _fp8_product(device: torch.device, rows: int, width: int) -> Callable[[], torch.Tensor]:
    rows, width = (-(-size // FP8_MULTIPLE) * FP8_MULTIPLE for size in (rows, width))
    left = torch.randn(rows, width, device=device).to(torch.float8_e4m3fn)
    right = torch.randn(width, width, device=device).to(torch.float8_e4m3fn).t()  # columns in a row, as it must be
    scale = torch.ones((), device=device)
    return lambda: torch._scaled_mm(left, right, scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)


def _no_bf16() -> str | None:
    return None if torch.cuda.is_bf16_supported(including_emulation=False) else "the GPU has no bf16 units"


def _no_tf32(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        return "tf32 is NVIDIA's"
    return None if torch.cuda.get_device_capability(device) >= (8, 0) else "the GPU has no tf32 units"


def _no_fp8(device: torch.device) -> str | None:
    """Found by trying: which GPUs have it depends on torch's build as well."""
    if torch.version.hip is not None:
        return "measured on NVIDIA GPUs only: AMD's eight bits differ between its GPUs"
    if torch.cuda.get_device_capability(device) < (8, 9):
        return "the GPU has no fp8 units"
    try:
        _fp8_product(device, FP8_MULTIPLE, FP8_MULTIPLE)()
    except (AttributeError, RuntimeError, ValueError) as error:
        return f"torch {torch.__version__} multiplies no fp8 here: {str(error).splitlines()[0]:.120}"
    return None
