"""What a study file may say, and what a run is: the contract every other room reads.

A study is YAML written by a person (units in the key names). A run is one workload x layout x recipe x
resources at one site, fully resolved: no defaults left to fill, stored as `run.json`. Keys that are
unknown are errors, so that no option is ever silently ignored.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from hpc_accel.study.base import MemoryMb, Minutes, PositiveInt, StrictModel, checked_name
from hpc_accel.study.infer_options import Infer
from hpc_accel.study.layout import Layout
from hpc_accel.study.optimizer import ENTRY, Optimizer
from hpc_accel.study.production import Production
from hpc_accel.study.recipe import Count, Recipe
from hpc_accel.study.sbatch_options import StudyOptions, deciding

Backend = Literal["mpi4py", "gloo", "nccl"]
Objective = Literal["time", "energy", "cost"]


class WorkloadSpec(StrictModel):
    """StrictModel + data + loss: a built-in `name`, or the user's own `entry` "package.module:function"."""

    name: str
    entry: str
    args: dict[str, Any] = {}
    global_batch_size: PositiveInt
    optimizer: Optimizer = Optimizer()
    sources: dict[str, str] = {}
    """Digests of the user's files that it depends on, by path (sources.py): who edits one measures another run."""
    last_batch: Literal["drop", "keep"] = "drop"
    """An epoch's last, incomplete global batch: left out, or trained on with fewer samples."""
    meta: Annotated[bool, Field(strict=True)] = False
    """Whether the model is built without values, of which each rank makes those of its own part."""
    weights: str = ""
    """A safetensors file, or a directory of them, that the model begins with instead of what `build()` made."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run that does not use `meta` or `weights` keeps the digest that it had before there were any."""
        content: dict[str, Any] = whole(self)
        return {key: value for key, value in content.items() if value or key not in ("meta", "weights")}

    _name = field_validator("name")(checked_name)

    @field_validator("entry")
    @classmethod
    def _entry(cls, value: str) -> str:
        if not ENTRY.fullmatch(value):
            raise ValueError('an entry is written "package.module:function"')
        return value


NameOrEmpty = Annotated[str, AfterValidator(lambda name: checked_name(name) if name else name)]


class NodeShape(StrictModel):
    """How many nodes, and what of each. Memory is per node, as Slurm's --mem is."""

    num_nodes: PositiveInt = 1
    ranks_per_node: PositiveInt = 1
    gpus_per_node: Count = 0
    cpus_per_rank: PositiveInt = 1
    memory_mb: MemoryMb = 4000
    """0: all memory of the nodes; None: not asked for."""
    partition: str = ""

    @property
    def shape(self) -> dict[str, Any]:
        """These fields alone."""
        return {key: getattr(self, key) for key in NodeShape.model_fields}


class NodeKind(NodeShape):
    """Nodes that are alike, of a run on nodes that differ."""

    number: Count = 0
    """Which of the study's node kinds this is."""
    constraint: str = ""
    """Features of the nodes, as Slurm's --constraint; empty: the site's."""
    gpu_type: NameOrEmpty = ""
    """Type in gpu:<type>:<n>; empty: the partition's."""

    @property
    def num_ranks(self) -> int:
        """Ranks on these nodes."""
        return self.num_nodes * self.ranks_per_node


class Resources(NodeShape):
    """What one run asks of the site.

    On nodes that differ, `node_kinds` says what each kind gives, and ranks are numbered node kind after node kind.
    The other figures then speak for all: `num_nodes` is the sum, ranks and GPUs per node the most, CPUs per rank and
    memory the least of any node kind.
    """

    time_limit_min: Minutes = 30
    sbatch_options: StudyOptions = {}
    """Further options of sbatch (sbatch_options.py); they win over the site's."""
    node_kinds: Annotated[tuple[NodeKind, ...], Field(min_length=1)] | None = None

    @property
    def num_ranks(self) -> int:
        """Ranks the run starts."""
        return sum(part.num_ranks for part in self.each_kind)

    @property
    def each_kind(self) -> tuple[NodeKind, ...]:
        """The node kinds; where all nodes are alike, one that is the whole."""
        if self.node_kinds is not None:
            return self.node_kinds
        return (NodeKind(**self.shape),)

    @property
    def nodes_by_partition(self) -> list[tuple[str, int]]:
        """(partition, number of nodes) of each part; an empty partition is the site's."""
        return [(part.partition, part.num_nodes) for part in self.each_kind]

    def node_kind_of(self, rank: int) -> NodeKind:
        """The node kind that `rank` runs on."""
        for part in self.each_kind:
            if rank < part.num_ranks:
                return part
            rank -= part.num_ranks
        raise ValueError(f"no rank {rank + self.num_ranks} of {self.num_ranks}")

    @model_validator(mode="after")
    def _whole(self) -> Resources:
        if self.node_kinds is not None and self.num_nodes != sum(part.num_nodes for part in self.node_kinds):
            raise ValueError("num_nodes is the sum of the node kinds' nodes")
        return self


class Measure(StrictModel):
    """How a run is measured.

    `parity_steps` losses are compared with a serial fp32 run; `parity_tolerance` (relative) is filled
    from the precision when the study does not set it. The workload's metric is computed on at most `metric_samples`
    held-out samples, evenly spread; 0 leaves it out. Up to `max_steps` are timed where `steps` take less than 100
    updates of the energy sensors. `idle_s` None measures idle power where a sensor can be read, 0 never. A rank that
    takes longer than `hang_after_s` for a step or a checkpoint hangs; None: see runtime/hang.py. A run that something
    disturbed is measured up to `repeat_disturbed` times more.
    """

    warmup_steps: Count = 5
    steps: PositiveInt = 30
    parity_steps: Count = 5
    parity_tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    metric_samples: Count = 1024
    max_steps: PositiveInt | None = None
    idle_s: Annotated[float, Field(ge=0, le=600)] | None = None
    target_loss: Annotated[float, Field(allow_inf_nan=False)] | None = None
    hang_after_s: PositiveInt | None = None
    repeat_disturbed: Annotated[int, Field(ge=0, le=20, strict=True)] = 0


class Checkpoint(StrictModel):
    """When and how a run saves what it needs to go on: always at a warning signal, and every so many steps.

    Without `every_steps` the interval follows from what a save takes and how often nodes fail (train/interval.py).
    `asynchronous` saves take host memory for a copy of the state, and training goes on meanwhile. `start_from` is the
    directory of another run, of any layout, whose newest checkpoint this one goes on from; or one of its checkpoints.
    """

    every_steps: PositiveInt | None = None
    keep: Annotated[int, Field(ge=1, strict=True)] = 2
    asynchronous: bool = True
    start_from: Annotated[str, Field(min_length=1)] | None = None
    node_mtbf_h: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Mean time between failures of one node; the site's, unless the study says another."""


class Run(StrictModel):
    """One run, resolved. `run_id` is a name and a digest of all of this content."""

    format: Literal[1] = 1
    run_id: str = ""
    study: str
    site: str
    seed: int = 0
    repeat: PositiveInt = 1
    """Index of this measurement of the same configuration, from 1."""
    workload: WorkloadSpec
    layout: Layout
    recipe: Recipe
    resources: Resources
    measure: Measure
    checkpoint: Checkpoint = Checkpoint()
    backend: Backend = "mpi4py"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    infer: Infer | None = None
    """What is served, and how it is loaded; None trains."""
    production: Production | None = None
    """Of a run that trains to its end; None measures."""

    @model_serializer(mode="wrap")
    def _without_production(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run that measures keeps the digest that it had before there were others."""
        content: dict[str, Any] = whole(self)
        if content.get("production") is None:
            content.pop("production", None)
        return content

    @model_validator(mode="after")
    def _identify(self) -> Run:
        expected = run_id(self)
        if self.run_id and self.run_id != expected:
            raise ValueError(f"run_id is {self.run_id} but the content's is {expected}: the file was edited")
        object.__setattr__(self, "run_id", expected)
        return self

    @property
    def label(self) -> str:
        """What the run is called in charts: layout, precision, accumulation (or batch served), options set."""
        size = f"b{self.infer.batch_size}" if self.infer else f"x{self.layout.accumulation_steps}"
        name = f"{self.layout.label} {self.recipe.precision} {size}"
        return " ".join([name, *self.recipe.options])


def run_id(run: Run) -> str:
    """`workload-layout-precision-aN-digest` (`bN`, a batch, to serve); the digest covers all that is measured under."""
    content = run.model_dump(mode="json", exclude={"run_id"})
    # These change how the job is queued, not what is measured: editing them must not re-run anything.
    for key in ("time_limit_min", "memory_mb", "partition"):
        content["resources"].pop(key)
    for part in content["resources"]["node_kinds"] or ():
        part.pop("memory_mb")  # a node kind's partition stays: it says on which nodes these ranks compute
    saving = content["checkpoint"]
    saving.pop("node_mtbf_h")
    for key in ("asynchronous", "start_from"):
        if saving[key] == Checkpoint.model_fields[key].default:
            saving.pop(key)
    options = deciding(content["resources"].pop("sbatch_options"))
    if options:
        content["resources"]["sbatch_options"] = options
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    size = f"b{run.infer.batch_size}" if run.infer else f"a{run.layout.accumulation_steps}"
    repeat = [f"r{run.repeat}"] if run.repeat > 1 else []
    return "-".join([run.workload.name, run.layout.label, run.recipe.precision, size, *repeat, digest])
