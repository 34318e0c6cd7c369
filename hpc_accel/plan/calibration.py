"""calibration.json: what a study's own models took on this machine, as `hpc_accel.calibrate` writes it.

A layer's passes are measured for some numbers of tensor-parallel ranks and micro-batch sizes, collectives of tensor
parallelism included, between other compute and through the study's backend, while as many ranks of the node compute as
in the run. Pipeline, replicas and optimizer are composed of them by the same formulas as without, plus what measured
layouts took more (`Replicated`, `Staged`). `measured_passes` says what counts where nothing was measured.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from hpc_accel.errors import ConfigError
from hpc_accel.probe.hardware import Count, Facts, Positive
from hpc_accel.study.layout import Layout, Shard
from hpc_accel.study.model_facts import LayerFacts
from hpc_accel.study.recipe import Precision, Recompute

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Difference = Annotated[float, Field(allow_inf_nan=False)]
"""Seconds that something took more than composed of its parts, or less."""
MAX_SPREAD = 0.15
"""Quartiles of a quiet measurement differ by at most this share of the median."""


class MeasuredPass(Facts):
    """One micro-batch through one layer and back on one rank."""

    layer: str
    """`layer_digest` of its facts: equal layers are measured once."""
    name: str
    precision: Precision
    recompute: Recompute = "none"
    tp: Count = 1
    micro_batch_size: Count
    sequence_parallel: bool = False
    ranks: Count | None = None
    """Ranks of the node that computed at once; None where that makes no difference."""
    forward_s: Positive
    backward_s: Positive
    """What recomputation repeats is in it."""
    spread: Seconds = 0.0
    """Difference of the quartiles over the median."""


class Linear(Facts):
    """A time that grows with a count: fixed_s + each_s x count."""

    fixed_s: Seconds
    each_s: Seconds

    def __call__(self, count: float) -> float:
        return self.fixed_s + self.each_s * count


class Replicated(Facts):
    """What replicas took more than composed, in all micro-batches and in each step, for the whole model's tensors."""

    shard: Shard
    micro_batch_s: Difference
    step_s: Difference
    spread: Seconds = 0.0

    def __call__(self, accumulation_steps: int, share: float) -> float:
        """Of one step, on a rank with this share of the model's parameter tensors."""
        return share * (self.step_s + accumulation_steps * self.micro_batch_s)


class Staged(Facts):
    """What stages took more than composed."""

    pass_s: Seconds
    """Of a pass of one micro-batch through a stage, beside its layers: schedule, messages entered."""
    spread: Seconds = 0.0


class Calibration(Facts):
    """Of one workload. What was not measured is None or empty, and predicted as without a calibration."""

    digest: str = ""
    """Of model, optimizer and seed; for others the calibration does not hold."""
    passes: tuple[MeasuredPass, ...] = ()
    micro_batch_s: Seconds | None = None
    """Of one micro-batch beside its layers and samples: starting the passes, the loss."""
    samples: Linear | None = None
    """To fetch and collate the samples of one micro-batch."""
    step_s: Seconds | None = None
    """Of one step beside its micro-batches and the optimizer."""
    optimizer_ratios: dict[Literal["plain", "fused"], Positive] = {}
    """Measured over predicted time of an optimizer step."""
    replicated: tuple[Replicated, ...] = ()
    staged: Staged | None = None

    def disturbed(self, precision: Precision, recompute: Recompute, layout: Layout, ranks: int) -> str | None:
        """Which measurement that `layout` is predicted from something else disturbed, or None."""
        key = (precision, recompute, layout.tp, layout.micro_batch_size, layout.sequence_parallel)
        for each in self.passes:
            own = (each.precision, each.recompute, each.tp, each.micro_batch_size, each.sequence_parallel)
            if each.spread > MAX_SPREAD and own == key and each.ranks in (None, ranks):
                where = f"{each.name} at tp {each.tp}, micro-batch {each.micro_batch_size}"
                return _apart(where, each.spread)
        replicas = self.replicas(layout.shard) if layout.dp > 1 else None
        if replicas is not None and replicas.spread > MAX_SPREAD:
            return _apart("replicas", replicas.spread)
        if layout.pp > 1 and self.staged is not None and self.staged.spread > MAX_SPREAD:
            return _apart("stages", self.staged.spread)
        return None

    def replicas(self, shard: Shard) -> Replicated | None:
        """What was measured of replicas that shard so."""
        return next((each for each in self.replicated if each.shard == shard), None)


def _apart(what: str, spread: float) -> str:
    return f"{what}: quartiles {spread:.0%} apart"


class CalibrationFile(Facts):
    """The whole file: a study's workloads by name, on the hardware of the hardware.json beside it."""

    format: Literal[2] = 2
    hardware_sha256: str
    """Of that file's bytes; for another the calibration does not hold."""
    machine: str = ""
    """Digest of the machine itself: what was measured on it is kept when it is probed again."""
    created_utc: str
    workloads: dict[str, Calibration]
    unmeasured: dict[str, str] = {}
    """Why a workload, or a part of it, was not measured."""


def layer_digest(layer: LayerFacts) -> str:
    """What a layer computes, whatever it is called and whoever holds its parameters."""
    content = (
        layer.forward_flops_per_sample,
        layer.tp_flops_per_sample,
        layer.tp_allreduce_elements_per_sample,
        layer.saved_elements_per_sample,
        layer.num_operations,
    )
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def read_calibrations(path: Path) -> CalibrationFile | None:
    """The file at `path`; None where there is none. Raises ConfigError for a broken one."""
    if not path.exists():
        return None
    try:
        return CalibrationFile.model_validate(json.loads(path.read_text()))
    except (ValueError, ValidationError) as error:
        first = str(error).splitlines()[0]
        rule = "calibration.json has the shape that the probe writes"
        raise ConfigError(f"{path}: {first}", rule, "delete it and hardware.json, and probe again") from None


def load_calibrations(path: Path, hardware: bytes) -> CalibrationFile | None:
    """The calibration.json at `path`; `hardware` is the hardware.json that the plan is made with.

    None where there is no such file, or where it holds for other hardware. Raises ConfigError for a broken one.
    """
    found = read_calibrations(path)
    return found if found is not None and found.hardware_sha256 == hashlib.sha256(hardware).hexdigest() else None
