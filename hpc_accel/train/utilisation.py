"""Model FLOP utilisation: FLOPs counted on the serial model, over the step time, over the peak the probe measured.

The peak is that of what the run computed on. GPUs: the rate of one, times the different GPUs, which ranks may share.
CPUs: the rate of one rank while as many ranks as the run has per node compute at once, times the ranks, so that it is
the peak of the same cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpc_accel.files import read_object
from hpc_accel.measure.flops import utilisation
from hpc_accel.record.figure import Flop, FlopPerSecond, Fraction
from hpc_accel.record.parts import Flops
from hpc_accel.study.run import Run

COUNTED_ON = "matrix products and convolutions of the serial fp32 model, forward and backward, by FlopCounterMode"


def flops_facts(
    run: Run,
    directory: Path,
    device: str,
    flops_per_step: int | None,
    reason: str,
    step_time_ms: float | None,
    num_gpus: int | None = None,
) -> Flops:
    """FLOPs and their utilisation; where none were counted for `reason`, nothing is known.

    `directory` is the run's, below the study that has hardware.json.

    `num_gpus` is how many different GPUs the ranks have; where each was promised its own it need not be said.
    """
    if flops_per_step is None:
        return Flops.missing(reason)
    peak, reason = probed_peak(run, _hardware(directory), device)
    num_devices, unknown = _num_devices(run, device, num_gpus)
    if num_devices is None:
        peak, reason = None, unknown
    mfu = utilisation(flops_per_step, step_time_ms / 1e3 if step_time_ms else None, peak, num_devices or 0)
    no_time = "no step time"
    return Flops(
        per_step=Flop.of(flops_per_step),
        counted_on=COUNTED_ON,
        achieved_flops_per_s=FlopPerSecond.of(flops_per_step / step_time_ms * 1e3 if step_time_ms else None, no_time),
        peak_flops_per_s=FlopPerSecond.of(peak * num_devices if peak and num_devices else None, reason),
        mfu=Fraction.of(mfu, reason or no_time),
    )


def _num_devices(run: Run, device: str, num_gpus: int | None) -> tuple[int | None, str]:
    """How many times the peak of one the run had; or None and why."""
    parts = {bool(part.gpus_per_node) for part in run.resources.each_kind}
    if run.device != "cpu" and len(parts) == 2:
        return None, "the ranks computed on CPUs beside GPUs, which have no peak in common"
    if device != "cuda" or run.resources.gpus_per_node:
        return run.layout.num_ranks, ""
    return num_gpus, "" if num_gpus else "ranks may have shared GPUs, and nobody counted them"


def probed_peak(run: Run, hardware: dict[str, Any], device: str) -> tuple[float | None, str]:
    """FLOP/s of one rank's part of the machine at the run's precision; or None and why."""
    precision = run.recipe.precision
    if not hardware:
        return None, "no hardware.json beside the study's runs: the peak is what `hpc-accel probe` measured"
    if hardware.get("site") != run.site:
        return None, f"hardware.json is of site {hardware.get('site')!r}, the run of {run.site!r}"
    kinds = [kind for kind in hardware.get("node_kinds", []) if kind.get("device") == device]
    if not kinds:
        return None, f"the probe measured no {device} node"
    rates = []
    for kind in kinds:
        rate = _rate(kind, device, run.resources.ranks_per_node, precision)
        if rate is None:
            why = kind.get("matmul_flops_per_s_reason", {}).get(precision)
            return None, f"no probed {precision} peak: {why or _no_level(run)}"
        rates.append(rate)
    return min(rates), ""


def _rate(kind: dict[str, Any], device: str, ranks_per_node: int, precision: str) -> float | None:
    alone: float | None = kind.get("matmul_flops_per_s", {}).get(precision)
    if device == "cuda" or ranks_per_node == 1:
        return alone
    for level in kind.get("levels", []):
        if level.get("ranks") == ranks_per_node:
            rate: float | None = level.get("matmul_flops_per_s", {}).get(precision)
            return rate
    return None


def _no_level(run: Run) -> str:
    return f"the probe did not measure {run.resources.ranks_per_node} ranks of a node computing at once"


def _hardware(directory: Path) -> dict[str, Any]:
    """hardware.json of the study; empty where there is none to read."""
    content = read_object(directory.parent.parent / "hardware.json")
    return {} if isinstance(content, str) else content
