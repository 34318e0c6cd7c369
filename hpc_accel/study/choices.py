"""Layouts, recipes and inference as a study names them: values, or lists of values that are compared."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hpc_accel.study.base import PositiveInt, StrictModel
from hpc_accel.study.infer_options import InferOptions
from hpc_accel.study.layout import Order, Schedule, Shard
from hpc_accel.study.recipe import Bind, Compression, Count, Fraction, Offload, Precision, Prune, Quantize, Recompute


class Choice(StrictModel):
    """Values, or lists of values that are compared."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        for key in self.model_fields_set:
            if getattr(self, key) == []:
                raise ValueError(f"{key} lists nothing, so nothing would run; give a value or leave the key out")
        return self


class LayoutChoice(Choice):
    """One layout, or with lists the cross product of several.

    Give `micro_batch_size` or `accumulation_steps`; the other follows from the global batch.
    """

    dp: PositiveInt | list[PositiveInt] = 1
    pp: PositiveInt | list[PositiveInt] = 1
    tp: PositiveInt | list[PositiveInt] = 1
    shard: Shard | list[Shard] = "none"
    schedule: Schedule | list[Schedule] | None = None
    stages_per_rank: PositiveInt | list[PositiveInt] | None = None
    micro_batch_size: PositiveInt | list[PositiveInt] | None = None
    accumulation_steps: PositiveInt | list[PositiveInt] | None = None
    split: Literal["auto", "measured"] | tuple[PositiveInt, ...] = "auto"
    sequence_parallel: bool | list[bool] = False
    order: Order | list[Order] = "pp.dp.tp"
    shares: tuple[PositiveInt, ...] | Literal["auto"] | None = None


class RecipeChoice(Choice):
    """One recipe, or with lists the cross product of several."""

    precision: Precision | list[Precision] = "fp32"
    compile: bool | list[bool] = False
    recompute: Recompute | list[Recompute] = "none"
    compression: Compression | list[Compression] = "none"
    channels_last: bool | list[bool] = False
    fused_optimizer: bool | list[bool] = False
    bucket_mb: PositiveInt | list[PositiveInt] | None = None
    overlap: bool | list[bool] = True
    static_graph: bool | list[bool] = False
    average_every: PositiveInt | list[PositiveInt] = 1
    data_workers: Count | list[Count] = 0
    pin_memory: bool | list[bool] = False
    offload: Offload | list[Offload] = "none"
    threads_per_rank: PositiveInt | list[PositiveInt] | None = None
    cpu_bind: Bind | list[Bind] | None = None
    quantize: Quantize | list[Quantize] = "none"
    prune: Prune | list[Prune] = "none"
    prune_fraction: Fraction | list[Fraction] = 0.5
    gpu_freq_mhz: PositiveInt | list[PositiveInt] | None = None
    cpu_freq_khz: PositiveInt | list[PositiveInt] | None = None
    power_limit_w: PositiveInt | list[PositiveInt] | None = None


class InferChoice(InferOptions):
    """A study's `infer`. Its own layouts and recipes win over the workload's and the study's."""

    batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)] = [1]
    layouts: list[LayoutChoice] | None = None
    recipes: list[RecipeChoice] | None = None
