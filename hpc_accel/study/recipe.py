"""Software options of a run: what changes speed, memory or numbers, but not what is computed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpc_accel.study.base import PositiveInt, StrictModel

Precision = Literal["fp32", "tf32", "bf16", "fp16", "fp8"]
Recompute = Literal["none", "selective", "full"]
Compression = Literal["none", "bf16", "fp16", "powersgd"]
Offload = Literal["none", "activations", "parameters"]
Quantize = Literal["none", "int8"]
Prune = Literal["none", "magnitude", "2:4"]
Bind = Literal["none", "core", "numa"]
Count = Annotated[int, Field(ge=0, strict=True)]
Fraction = Annotated[float, Field(gt=0, lt=1)]

PARITY_TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 2e-2, "fp8": 1e-1}
"""Largest relative loss difference from the serial fp32 run that still counts as the same computation."""
COMPRESSION_TOLERANCE = {"none": 0.0, "bf16": 1e-2, "fp16": 1e-2, "powersgd": 2e-1}
QUANTIZE_TOLERANCE = {"none": 0.0, "int8": 1e-1}
LOCAL_SGD_TOLERANCE = 2e-1
"""The same for options that change numbers on purpose; of several the largest counts."""

CALIBRATED = ("compile", "channels_last")
"""What no formula knows of a pass, and a calibration measures."""


class Recipe(StrictModel):
    """Software options that change speed, memory or numbers but not what is computed."""

    precision: Precision = "fp32"
    compile: bool = False
    recompute: Recompute = "none"
    """What backward computes again instead of keeping: nothing, all but matrix products, or all of each block."""
    compression: Compression = "none"
    """Of gradients on the wire."""
    sync_batch_norm: bool = False
    """Whether BatchNorm layers normalise over the micro-batches of all replicas."""
    channels_last: bool = False
    fused_optimizer: bool = False
    bucket_mb: PositiveInt | None = None
    """Gradients all-reduced together; None is torch's 25 MiB (the first 1 MiB)."""
    overlap: bool = True
    """Whether buckets are all-reduced while backward still runs."""
    static_graph: bool = False
    average_every: PositiveInt = 1
    """Steps between averages of the replicas' parameters; above 1 gradients are not exchanged (local SGD)."""
    data_workers: Count = 0
    pin_memory: bool = False
    offload: Offload = "none"
    threads_per_rank: PositiveInt | None = None
    cpu_bind: Bind | None = None
    quantize: Quantize = "none"
    prune: Prune = "none"
    prune_fraction: Fraction = 0.5
    gpu_freq_mhz: PositiveInt | None = None
    cpu_freq_khz: PositiveInt | None = None
    power_limit_w: PositiveInt | None = None
    """Of each GPU. What is None stays as the site has it."""

    @property
    def frequencies(self) -> dict[str, int]:
        """What is set of frequencies and power limits, by key."""
        keys = ("gpu_freq_mhz", "cpu_freq_khz", "power_limit_w")
        return {key: value for key in keys if (value := getattr(self, key)) is not None}

    @property
    def calibrated(self) -> tuple[str, ...]:
        """Options that change the time of each pass in ways that only measured passes tell."""
        return tuple(name for name in CALIBRATED if getattr(self, name))

    @property
    def options(self) -> list[str]:
        """All but precision and frequencies that differ from the defaults, as `key=value`."""
        return self.changed(but=("precision", "gpu_freq_mhz", "cpu_freq_khz", "power_limit_w"))

    @property
    def parity_tolerance(self) -> float:
        """What parity allows where the study does not say."""
        tolerances = [PARITY_TOLERANCE[self.precision], COMPRESSION_TOLERANCE[self.compression]]
        tolerances.append(QUANTIZE_TOLERANCE[self.quantize])
        if self.average_every > 1:
            tolerances.append(LOCAL_SGD_TOLERANCE)
        return max(tolerances)
