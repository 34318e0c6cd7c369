"""`hpc-accel probe` on this card: are its rates those the card is known for, and does it measure the same twice?"""

from __future__ import annotations

import time

from benchmarks.gpu.runs import OUT
from benchmarks.gpu.say import DEVICE, PRETENDED, figure, size
from hpc_accel.probe.compute import effort_for, timed
from hpc_accel.probe.probe import run
from hpc_accel.probe.products import product

TERA = 1e12
EXPECTED = {"fp32": (35, 65), "tf32": (250, 520), "bf16": (550, 900), "fp16": (550, 900), "fp8": (900, 1800)}
"""TFLOP/s of an H100 or H200 that keeps them up; NVIDIA's data sheets say 67, 495, 989, 989 and 1979."""


def main() -> None:
    """Probe, then its figures."""
    began = time.perf_counter()
    gpus = 0 if PRETENDED else 1
    found = run(OUT / "hardware.json", site="local", device=DEVICE.type, gpus_per_node=gpus)
    figure("the probe took", time.perf_counter() - began, "s")
    (kind,) = found["node_kinds"]
    for precision, rate in kind["matmul_flops_per_s"].items():
        low, high = size(EXPECTED[precision], (None, None))
        figure(f"{precision} products", rate and rate / TERA, "TFLOP/s", low=low, high=high)
    copies = kind["memory_bandwidth_bytes_per_s"] / TERA
    figure("copy, read and written", copies, "TB/s", low=size(2.3, None), high=size(5.0, None))
    figure("an operation forward", 1e6 * kind["kernel_overhead_s"], "us")
    figure("an operation backward", 1e6 * kind["backward_overhead_s"], "us")
    effort = effort_for(DEVICE, quick=True, crowded=False)
    twice = [timed(DEVICE, product(DEVICE, "fp32", 1, 1), effort) for _ in range(2)]
    figure("the smallest product, second time over first", twice[1] / twice[0], low=0.7, high=1.43)


if __name__ == "__main__":
    main()
