"""calibration.json: what a study's own models took on this machine, as `hpc_accel.calibrate` writes it.

A layer's passes are measured for some numbers of tensor-parallel ranks and micro-batch sizes, collectives of tensor
parallelism included, between other compute and through the study's backend, while as many ranks of the node compute as
in the run. Pipeline, replicas and optimizer are composed of them by the same formulas as without, plus what measured
layouts took more (`Replicated`, `Staged`). `measured_passes` says what counts where nothing was measured. A calibration
holds for its `Subject` alone: the probe and the plan both compare it with the study as it is now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from hpc_accel.errors import ConfigError
from hpc_accel.probe.hardware import Count, Facts, Hardware, Positive
from hpc_accel.study.layout import Layout, Shard
from hpc_accel.study.model_facts import LayerFacts, ModelFacts
from hpc_accel.study.recipe import Precision, Recipe, Recompute
from hpc_accel.study.run import Backend, WorkloadSpec
from hpc_accel.study.study_file import Study

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Difference = Annotated[float, Field(allow_inf_nan=False)]
"""Seconds that something took more than composed of its parts, or less."""
MAX_SPREAD = 0.15
"""Quartiles of a quiet measurement differ by at most this share of the median."""
FORMAT: Final = 4
"""Of the file. Until 2 it did not say through which backend, and with how many CPUs and threads, it was measured; until
3 it knew no options and no power."""


class Subject(Facts):
    """What was measured, and with what; for any other a calibration does not hold."""

    workload: str
    """`workload_digest` of model, optimizer and data."""
    backend: Backend
    cpus_per_rank: Count
    threads: Count
    """Of a rank that computes alone on its node."""

    def difference(self, now: Subject) -> str | None:
        """What this is of and `now` is not, in words; None where they are equal."""
        if self.workload != now.workload:
            return "another model, optimizer or data"
        if self.backend != now.backend:
            return f"backend {self.backend}, not {now.backend}"
        if self.cpus_per_rank != now.cpus_per_rank:
            return f"{self.cpus_per_rank} CPU(s) per rank, not {now.cpus_per_rank}"
        return f"{self.threads} thread(s) per rank, not {now.threads}" if self.threads != now.threads else None


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
    options: tuple[str, ...] = ()
    """`Recipe.calibrated`."""
    ranks: Count | None = None
    """Ranks of the node that computed at once; None where that makes no difference."""
    forward_s: Positive
    backward_s: Positive
    """What recomputation repeats is in it."""
    spread: Seconds = 0.0
    """Difference of the quartiles over the median."""
    power_w: Positive | None = None
    """Of the node during whole steps, by its sensors; None where they could not tell."""

    @property
    def recipe(self) -> tuple[Precision, Recompute, tuple[str, ...]]:
        """What of the recipe it was measured with; passes of another one tell nothing of it."""
        return self.precision, self.recompute, self.options


class Linear(Facts):
    """A time that grows with a count: fixed_s + each_s x count."""

    fixed_s: Seconds
    each_s: Seconds

    def __call__(self, count: float) -> float:
        return self.fixed_s + self.each_s * count


class Replicated(Facts):
    """What replicas took more than composed, in all micro-batches and in each step, for the whole model's tensors."""

    shard: Shard
    precision: Precision
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

    of: Subject | None = None
    """None of a calibration that no file holds."""
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

    def measures(self, recipe: Recipe) -> bool:
        """Whether passes were measured in this precision, with this recomputation and these options."""
        own = (recipe.precision, recipe.recompute, recipe.calibrated)
        return any(each.recipe == own for each in self.passes)

    def disturbed(
        self, precision: Precision, recompute: Recompute, options: tuple[str, ...], layout: Layout, ranks: int
    ) -> str | None:
        """Which measurement that `layout` is predicted from something else disturbed, or None."""
        key = (precision, recompute, options, layout.tp, layout.micro_batch_size, layout.sequence_parallel)
        for each in self.passes:
            own = (*each.recipe, each.tp, each.micro_batch_size, each.sequence_parallel)
            if each.spread > MAX_SPREAD and own == key and each.ranks in (None, ranks):
                where = f"{each.name} at tp {each.tp}, micro-batch {each.micro_batch_size}"
                return _apart(where, each.spread)
        replicas = self.replicas(layout.shard, precision) if layout.dp > 1 else None
        if replicas is not None and replicas.spread > MAX_SPREAD:
            return _apart("replicas", replicas.spread)
        if layout.pp > 1 and self.staged is not None and self.staged.spread > MAX_SPREAD:
            return _apart("stages", self.staged.spread)
        return None

    def replicas(self, shard: Shard, precision: Precision) -> Replicated | None:
        """What was measured of replicas that shard so and compute so."""
        of = (shard, precision)
        return next((each for each in self.replicated if (each.shard, each.precision) == of), None)


def _apart(what: str, spread: float) -> str:
    return f"{what}: quartiles {spread:.0%} apart"


class Unfinished(Facts):
    """Calibrations of one subject that began and did not end: killed, out of time, or ended with their process."""

    of: Subject
    times: Count


class CalibrationFile(Facts):
    """The whole file: a study's workloads by name, on the hardware of the hardware.json beside it."""

    format: Literal[4] = FORMAT
    hardware_sha256: str
    """Of that file's bytes; for another the calibration does not hold."""
    machine: str = ""
    """Digest of the machine itself: what was measured on it is kept when it is probed again."""
    created_utc: str
    workloads: dict[str, Calibration]
    unmeasured: dict[str, str] = {}
    """Why a workload, or a part of it, was not measured."""
    unfinished: dict[str, Unfinished] = {}

    def holding(self, subjects: Mapping[str, Subject], hardware: Path) -> tuple[dict[str, Calibration], list[str]]:
        """Calibrations of `subjects`, a study's workloads as they are now, and notes on what is missing and why.

        `hardware` is the hardware.json to delete for another probe.
        """
        found, notes, unmeasured = {}, [], dict(self.unmeasured)
        for name, known in self.workloads.items():
            if name not in subjects:
                continue
            if other := known.of.difference(subjects[name]) if known.of is not None else "an unknown model":
                unmeasured.pop(name, None)  # that, too, was of the other
                remedy = f"delete {hardware} to measure anew"
                notes.append(f"{name}: its calibration is of {other}: predicted without it; {remedy}")
            else:
                found[name] = known
        return found, [*(f"{name}: not calibrated: {why}" for name, why in unmeasured.items()), *notes]


def subject_of(spec: WorkloadSpec, facts: ModelFacts, study: Study, hardware: Hardware) -> Subject:
    """What a calibration of this workload must be of to hold for this study on this hardware."""
    return Subject(
        workload=workload_digest(spec, facts),
        backend=study.backend,
        cpus_per_rank=study.resources.cpus_per_rank,
        threads=hardware.slowest.level(1).threads,
    )


def workload_digest(spec: WorkloadSpec, facts: ModelFacts) -> str:
    """Of model, optimizer and data, whatever the batch.

    Of the facts those alone that are counted: how many samples were looked at for the others is a matter of time.
    """
    counted = repr((facts.layers, facts.optimizer))
    return digest_of([spec.model_dump(mode="json", exclude={"global_batch_size"}), counted])


def digest_of(content: Any) -> str:
    """Of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


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
    remedy = "delete it and hardware.json, and probe again"
    try:
        content = json.loads(path.read_text())
        written = content.get("format") if isinstance(content, dict) else None
        if written != FORMAT:
            raise ConfigError(f"{path}: format {written!r:.40}", f"this version reads format {FORMAT}", remedy)
        return CalibrationFile.model_validate(content)
    except (ValueError, ValidationError) as error:
        first = str(error).splitlines()[0]
        rule = "calibration.json has the shape that the probe writes"
        raise ConfigError(f"{path}: {first}", rule, remedy) from None


def load_calibrations(path: Path, hardware: bytes) -> CalibrationFile | None:
    """The calibration.json at `path`; `hardware` is the hardware.json that the plan is made with.

    None where there is no such file, or where it holds for other hardware. Raises ConfigError for a broken one.
    """
    found = read_calibrations(path)
    return found if found is not None and found.hardware_sha256 == hashlib.sha256(hardware).hexdigest() else None
