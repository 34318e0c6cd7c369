"""Pipeline stages of a model that is no Sequential, cut by torch's tracer between its blocks.

Values that jump over stages (a skip connection) are sent on by torch's stages, under schedules of one stage per rank.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.pipelining import Pipe, SplitPoint, pipeline
from torch.distributed.pipelining.stage import _PipelineStageBase

from hpc_accel.errors import ConfigError
from hpc_accel.parallel.boundary import Dtypes, buffers_kept
from hpc_accel.parallel.draws import name_draws
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.workloads.blocks import blocks_of
from hpc_accel.workloads.deferred import needs_values
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

    Raises ConfigError for a model that torch.export cannot trace: control flow on values, for example.
    """
    needs_values(workload.model, "stages of a model that is neither a Sequential nor a chain of blocks")
    names = [name for name, _ in blocks_of(workload.model)]
    starts = {names[sum(split[:stage])]: SplitPoint.BEGINNING for stage in range(1, len(split))}
    inputs = workload.batch_of([0] * place.micro_batch_size).args
    try:
        # Under autocast, so that stages expect what their neighbours will send.
        autocast = torch.autocast("cpu", dtype=autocast_dtype, enabled=autocast_dtype is not None)
        with warnings.catch_warnings(), autocast:
            warnings.simplefilter("ignore", FutureWarning)  # torch's tracer uses what torch itself deprecates
            pipe = pipeline(workload.model, mb_args=inputs, split_spec=dict(starts))
            with torch.no_grad(), buffers_kept(pipe):
                pipe(*inputs)  # some models are cut without complaint into stages that cannot run
    except Exception as error:
        raise ConfigError(
            f"{type(workload.model).__name__} cannot be cut by the tracer: {_first_line(error)}",
            "pp > 1 cuts a model that is no torch.nn.Sequential with torch.export",
            "return a torch.nn.Sequential from build(), or use dp, shard or tp",
        ) from error
    if pipe.num_stages != len(split):
        raise ConfigError(
            f"{type(workload.model).__name__} traced into {pipe.num_stages} stage(s) of {len(split)}",
            "each block is called once, in the order of its list",
            "return a torch.nn.Sequential from build(), or use fewer stages",
        )
    name_draws(pipe.get_stage_module(index) for index in range(pipe.num_stages))
    return TracedStages(modules={index: pipe.get_stage_module(index) for index in place.stages}, pipe=pipe)


def _dtype_of(value: Any) -> torch.dtype | None:
    """Of a node of the traced graph; None for what is no tensor."""
    return getattr(getattr(value, "meta", {}).get("val"), "dtype", None)


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
