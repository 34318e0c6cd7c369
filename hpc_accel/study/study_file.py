"""The study file as a person writes it: shorter than a run, with lists wherever a choice is compared."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from hpc_accel.errors import ConfigError
from hpc_accel.study.base import NAME, Minutes, PositiveInt, StrictModel, checked_name
from hpc_accel.study.choices import InferChoice, LayoutChoice, RecipeChoice, fields_of
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.run import Backend, Checkpoint, Measure, NameOrEmpty, NodeKind, NodeShape, Objective
from hpc_accel.study.sbatch_options import StudyOptions
from hpc_accel.study.yaml import read_yaml, validated

Layouts = Annotated[list[LayoutChoice], Field(min_length=1)]
Recipes = Annotated[list[RecipeChoice], Field(min_length=1)]
ENTRY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@fields_of(Measure, optional=Measure.model_fields)
class MeasureChoice(StrictModel):
    """How runs are measured; what is left out comes from the enclosing level, then from the defaults."""

    epochs: PositiveInt | None = None
    repeats: PositiveInt | None = None

    @model_validator(mode="after")
    def _said_once(self) -> MeasureChoice:
        if self.epochs is not None and getattr(self, "steps") is not None:  # noqa: B009 (a field of Measure's)
            raise ValueError("steps and epochs both say how long a run trains: give one of them")
        return self

    def said(self, outer: MeasureChoice, *, but: Collection[str] = ()) -> dict[str, Any]:
        """What a study says of a run's `Measure`: this level's fields, else those of the enclosing one."""
        levels = (outer.model_dump(exclude_none=True), self.model_dump(exclude_none=True))
        known = {key: value for level in levels for key, value in level.items()}
        return {key: value for key, value in known.items() if key in Measure.model_fields and key not in but}


class WorkloadChoice(StrictModel):
    """A built-in workload by `name`, or the user's own by `entry`; its own layouts win over the study's."""

    name: str | None = None
    entry: str | None = None
    args: dict[str, JsonValue] = {}
    global_batch_size: PositiveInt | None = None
    optimizer: Optimizer | None = None
    last_batch: Literal["drop", "keep"] = "drop"
    meta: Annotated[bool, Field(strict=True)] = False
    weights: str = ""
    """A safetensors file, or a directory of them, that the model begins with."""
    layouts: Layouts | Literal["auto"] | None = None
    recipes: Recipes | None = None
    infer: InferChoice | None = None
    measure: MeasureChoice = MeasureChoice()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        return checked_name(value) if value is not None else None

    @field_validator("entry")
    @classmethod
    def _entry(cls, value: str | None) -> str | None:
        if value is not None and not ENTRY.fullmatch(value):
            raise ValueError("an entry is module:function, with a colon between names that Python can import")
        return value


@fields_of(NodeKind, optional=("cpus_per_rank", "memory_mb", "partition"), but=("number",))
class NodeKindChoice(StrictModel):
    """Nodes of one kind, where a run may use several kinds. What is left out comes from `resources`, then the site."""


class ResourcesChoice(NodeShape):
    """The most that a run may use. A layout of fewer ranks takes fewer; memory is per node.

    `node_kinds` are for nodes that differ; nodes, ranks and GPUs per node are then theirs to say.
    """

    time_limit_min: Minutes = 30
    sbatch_options: StudyOptions = {}
    node_kinds: Annotated[list[NodeKindChoice], Field(min_length=1)] | None = None

    @property
    def of_each_run(self) -> dict[str, Any]:
        """What all runs ask for alike, whatever nodes they take."""
        return {"time_limit_min": self.time_limit_min, "sbatch_options": self.sbatch_options}

    @model_validator(mode="after")
    def _said_once(self) -> ResourcesChoice:
        twice = {"num_nodes", "ranks_per_node", "gpus_per_node"} & self.model_fields_set
        if self.node_kinds is not None and twice:
            raise ValueError(f"each node kind says its own {', '.join(sorted(twice))}")
        return self


class SearchChoice(StrictModel):
    """How many planned candidates `layouts: auto` keeps for measurement, per workload."""

    keep: PositiveInt = 6


class EnergyChoice(StrictModel):
    """What may stand where energy was not measured: nothing, or an estimate from the site's `power_w_per_node`."""

    estimate: Literal["tdp"] | None = None


class ProductionChoice(StrictModel):
    """The training to its end that follows the measurements: of which run, and how long (hpc_accel/produce)."""

    name: NameOrEmpty = ""
    """Of its directory; by default the workload's."""
    workload: str | None = None
    """Which, where the study has several."""
    run: str | None = None
    """A measured run by its id, instead of the best for `objective`."""
    objective: Objective | None = None
    """By default the study's."""
    epochs: PositiveInt | None = None
    steps: PositiveInt | None = None
    tokens: PositiveInt | None = None
    target_metric: Annotated[float, Field(allow_inf_nan=False)] | None = None
    evaluate_every_steps: PositiveInt | None = None
    patience: PositiveInt | None = None

    @model_validator(mode="after")
    def _said_once(self) -> ProductionChoice:
        said = [key for key in ("epochs", "steps", "tokens") if getattr(self, key) is not None]
        if len(said) > 1:
            raise ValueError(f"{' and '.join(said)} all say how long the training is: give one of them")
        if self.run is not None and self.objective is not None:
            raise ValueError("run names the run, and objective would choose one: give one of them")
        return self


class Study(StrictModel):
    """The whole file. Its name is the file's, so a study and its results can be found from each other."""

    name: str = Field(exclude=True)
    workload: WorkloadChoice | Annotated[list[WorkloadChoice], Field(min_length=1)]
    layouts: Layouts | Literal["auto"] = "auto"
    recipes: Recipes = [RecipeChoice()]
    infer: InferChoice | None = None
    train: bool = True
    """Whether the layouts are trained; with `infer` and without training only serving is measured."""
    resources: ResourcesChoice = ResourcesChoice()
    objective: Objective = "time"
    search: SearchChoice = SearchChoice()
    measure: MeasureChoice = MeasureChoice()
    energy: EnergyChoice = EnergyChoice()
    checkpoint: Checkpoint = Checkpoint()
    production: ProductionChoice = ProductionChoice()
    site: str = "local"
    calibrate: bool = True
    """Whether the probe also measures what the workloads' own layers take, for predictions."""
    same_allocation: bool = False
    """All runs in turn on the same nodes, in one Slurm job: fair to compare; kind to the queue when runs are short."""
    backend: Backend = "mpi4py"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0

    @property
    def workloads(self) -> list[WorkloadChoice]:
        """The workloads, also when the file names a single one."""
        return self.workload if isinstance(self.workload, list) else [self.workload]


def load_study(path: Path) -> Study:
    """Read and check a study file. Raises ConfigError with file, line, rule and remedy."""
    if not NAME.fullmatch(path.stem):
        raise ConfigError(
            f"study file name {path.name!r}",
            "the study is named after its file: letters, digits and _ . + - only",
            "rename the file",
        )
    data, lines = read_yaml(path)
    if "name" in data:
        line = lines[("name",)]
        raise ConfigError(f"{path}:{line}: unknown key 'name'", "a study is named after its file", "delete the line")
    content: dict[str, Any] = {"name": path.stem, **data}
    return validated(Study, content, path, lines)
