"""Pipeline stages of a model that is no Sequential, cut by torch's tracer between its blocks.

Values that jump over stages (a skip connection) are sent on by torch's stages, under schedules of one stage per rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.pipelining import Pipe
from torch.distributed.pipelining.stage import _PipelineStageBase

from hpc_accel.parallel.boundary import Dtypes
from hpc_accel.parallel.draws import name_draws
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.workloads.deferred import needs_values
from hpc_accel.workloads.tracer import traced
from hpc_accel.workloads.workload import Workload


@dataclass(frozen=True, kw_only=True)
class TracedStages:
    """This rank's stage of the traced model, by number, and what makes a pipeline stage of it."""

    modules: dict[int, nn.Module]
    pipe: Pipe

    def output_dtypes(self, stage: int) -> Dtypes:
        """What leaves `stage`, as the tracer saw it."""
        module: Any = self.modules[stage]
        (output,) = (node for node in module.graph.nodes if node.op == "output")
        values = output.args[0]
        return [_dtype_of(value) for value in (values if isinstance(values, tuple | list) else [values])]

    def stages(
        self, modules: dict[int, nn.Module], place: RankCoordinates, device: torch.device
    ) -> list[_PipelineStageBase]:
        """Torch's stages around `modules`, which are those of this record, wrapped."""
        from torch.distributed.pipelining import build_stage

        info, group = self.pipe.info(), place.group("pp")
        return [build_stage(module, index, info, device, group) for index, module in modules.items()]


def trace(
    workload: Workload, split: tuple[int, ...], place: RankCoordinates, autocast_dtype: torch.dtype | None
) -> TracedStages:
    """Cut the model before the first block of each stage; `split` counts blocks.

    Raises ConfigError as `traced` does.
    """
    needs_values(workload.model, "stages of a model that is neither a Sequential nor a chain of blocks")
    inputs = workload.batch_of([0] * place.micro_batch_size).args
    pipe = traced(workload.model, inputs, [sum(split[:stage]) for stage in range(1, len(split))], autocast_dtype)
    name_draws(pipe.get_stage_module(index) for index in range(pipe.num_stages))
    return TracedStages(modules={index: pipe.get_stage_module(index) for index in place.stages}, pipe=pipe)


def _dtype_of(value: Any) -> torch.dtype | None:
    """Of a node of the traced graph; None for what is no tensor."""
    return getattr(getattr(value, "meta", {}).get("val"), "dtype", None)
