"""What a study file may say, and what a run is: the contract every other room reads.

A study is YAML written by a person (units in the key names). A run is one workload x layout x recipe x
resources at one site, fully resolved: no defaults left to fill, stored as `run.json`. Keys that are
unknown are errors, so that no option is ever silently ignored.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Schedule = Literal["gpipe", "1f1b"]
Precision = Literal["fp32", "bf16", "fp16"]
Backend = Literal["mpi4py", "gloo", "nccl"]
Objective = Literal["time", "energy", "cost"]
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
ENTRY = re.compile(r"[A-Za-z_][\w]*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Model(BaseModel):
    """Frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def checked_name(value: str) -> str:
    """A name that may become part of a path, a job name and a table cell."""
    if not NAME.fullmatch(value):
        raise ValueError("a name has 1 to 64 of letters, digits and _ . + - and begins with a letter or digit")
    return value


class Optimizer(Model):
    """Which torch optimizer, and its learning rate."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Workload(Model):
    """Model + data + loss: a built-in `name`, or the user's own `entry` "package.module:function"."""

    name: str
    entry: str
    args: dict[str, Any] = {}
    global_batch_size: PositiveInt
    optimizer: Optimizer = Optimizer()
    entry_sha256: str | None = None

    _name = field_validator("name")(checked_name)

    @field_validator("entry")
    @classmethod
    def _entry(cls, value: str) -> str:
        if not ENTRY.fullmatch(value):
            raise ValueError('an entry is written "package.module:function"')
        return value


class Layout(Model):
    """How a run is spread over ranks. global batch = dp x micro_batch_size x accumulation_steps.

    With pp > 1 the `accumulation_steps` micro-batches are the ones the schedule pipelines. `split` is
    "auto" or the number of layers of each stage.
    """

    dp: PositiveInt = 1
    pp: PositiveInt = 1
    tp: PositiveInt = 1
    shard: Literal["none"] = "none"
    schedule: Schedule | None = None
    micro_batch_size: PositiveInt
    accumulation_steps: PositiveInt
    split: Literal["auto"] | tuple[PositiveInt, ...] = "auto"

    @property
    def num_ranks(self) -> int:
        """Ranks this layout occupies."""
        return self.dp * self.pp * self.tp

    @property
    def label(self) -> str:
        """Short name in tables: `serial`, `dp2`, `dp2.pp2.1f1b`."""
        parts = [f"{key}{getattr(self, key)}" for key in ("dp", "pp", "tp") if getattr(self, key) > 1]
        if self.pp > 1:
            parts.append(self.schedule or "")
        return ".".join(parts) or "serial"


class Recipe(Model):
    """Software options that change speed, memory or numbers but not what is computed."""

    precision: Precision = "fp32"
    compile: Literal[False] = False
    recompute: Literal["none"] = "none"
    compression: Literal["none"] = "none"
    channels_last: Literal[False] = False
    gpu_freq_mhz: PositiveInt | None = None
    cpu_freq_khz: PositiveInt | None = None
    power_limit_w: PositiveInt | None = None
    """Of each GPU. What is None stays as the site has it."""

    @property
    def clocks(self) -> dict[str, int]:
        """What is set of frequencies and power limits, by key."""
        keys = ("gpu_freq_mhz", "cpu_freq_khz", "power_limit_w")
        return {key: value for key in keys if (value := getattr(self, key)) is not None}


class Resources(Model):
    """What one run asks of the site. Memory is per node, as Slurm's --mem is."""

    num_nodes: PositiveInt = 1
    ranks_per_node: PositiveInt
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    cpus_per_rank: PositiveInt = 1
    memory_mb: PositiveInt = 4000
    time_limit_min: PositiveInt = 30
    partition: str = ""

    @property
    def num_ranks(self) -> int:
        """Ranks the run starts."""
        return self.num_nodes * self.ranks_per_node


class Measure(Model):
    """How a run is measured.

    `parity_steps` losses are compared with a serial fp32 run; `parity_tolerance` (relative) is filled
    from the precision when the study does not set it. Up to `max_steps` are timed where `steps` take less than 100
    updates of the energy sensors. `idle_s` None measures idle power where a sensor can be read, 0 never.
    """

    warmup_steps: Annotated[int, Field(ge=0)] = 5
    steps: PositiveInt = 30
    parity_steps: Annotated[int, Field(ge=0)] = 5
    parity_tolerance: Annotated[float, Field(gt=0)] | None = None
    max_steps: PositiveInt | None = None
    idle_s: Annotated[float, Field(ge=0, le=600)] | None = None
    target_loss: Annotated[float, Field(allow_inf_nan=False)] | None = None


class Checkpoint(Model):
    """When a run saves what it needs to go on: always at a warning signal, and every so many steps if asked."""

    every_steps: PositiveInt | None = None
    keep: Annotated[int, Field(ge=1, strict=True)] = 2


PARITY_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 2e-2}
"""Largest relative loss difference from the serial fp32 run that still counts as the same computation."""


class Run(Model):
    """One run, resolved. `run_id` is a name and a digest of all of this content."""

    format: Literal[1] = 1
    run_id: str = ""
    study: str
    site: str
    seed: int = 0
    repeat: PositiveInt = 1
    """The how manieth measurement of the same configuration this is."""
    workload: Workload
    layout: Layout
    recipe: Recipe
    resources: Resources
    measure: Measure
    checkpoint: Checkpoint = Checkpoint()
    backend: Backend = "mpi4py"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _identify(self) -> Run:
        expected = run_id(self)
        if self.run_id and self.run_id != expected:
            raise ValueError(f"run_id is {self.run_id} but the content's is {expected}: the file was edited")
        object.__setattr__(self, "run_id", expected)
        return self

    @property
    def label(self) -> str:
        """What the run is called in charts: layout, precision, accumulation."""
        return f"{self.layout.label} {self.recipe.precision} x{self.layout.accumulation_steps}"


LATER = {
    "": ("repeat",),
    "measure": ("max_steps", "idle_s", "target_loss"),
    "recipe": ("gpu_freq_mhz", "cpu_freq_khz", "power_limit_w"),
}


def run_id(run: Run) -> str:
    """`workload-layout-precision-aN-digest`; the digest covers every field that is measured under."""
    content = run.model_dump(mode="json", exclude={"run_id"})
    # These change how the job is queued, not what is measured: editing them must not re-run anything.
    for key in ("time_limit_min", "memory_mb", "partition"):
        content["resources"].pop(key)
    # Keys that came later: where they say nothing, a run measured before them is still the same run.
    for part, keys in LATER.items():
        for key in keys:
            inside = content[part] if part else content
            if inside[key] == {"repeat": 1}.get(key):
                inside.pop(key)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    accumulation = f"a{run.layout.accumulation_steps}"
    repeat = [f"r{run.repeat}"] if run.repeat > 1 else []
    return "-".join([run.workload.name, run.layout.label, run.recipe.precision, accumulation, *repeat, digest])
