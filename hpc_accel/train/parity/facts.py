"""What is measured of a model, its loss and its data before any step of the serial run."""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch.nn.modules.batchnorm import _BatchNorm

from hpc_accel.measure.flops import count_flops
from hpc_accel.parallel.loss_device import loss_of
from hpc_accel.runtime.seeded import digest_of_sample, draws_samples
from hpc_accel.train.parity.engine import Engine
from hpc_accel.train.parity.room import free_bytes
from hpc_accel.train.parity.together import Together
from hpc_accel.workloads.stream import spread_over
from hpc_accel.workloads.workload import Workload

MOST_MEASURED = 64
"""Samples on which the mean is measured."""
SHARE_OF_MEMORY = 0.4


class Dependence(BaseModel):
    """Which parts of a model act on samples together, so that the cut of the batch changes what is computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outputs: bool = False
    state: bool = False
    loss: bool = False
    layers: tuple[str, ...] = ()
    gathered: bool = False
    """Whether the loss is given the outputs of all replicas together."""
    collate: bool = False
    """Whether the collate function draws random numbers for the samples it gets together."""

    @property
    def is_any(self) -> bool:
        """Whether any part does."""
        return self.outputs or self.state or self.loss or self.collate


def measure_facts(engine: Engine) -> dict[str, Any]:
    """What is measured of model, loss and data before any step."""
    samples = spread_over(engine.workload.dataset, MOST_MEASURED)
    weights = digest_of_weights(engine.workload)
    measured = Together(engine, samples)
    mean = measured.mean()
    layers = [type(each).__name__ for each in engine.workload.model.modules() if isinstance(each, _BatchNorm)]
    dependence = Dependence(
        outputs=measured.depends(mean),
        state=measured.changes_state,
        loss=mean.over == "neither",
        layers=tuple(sorted(set(layers))),
        gathered=engine.workload.gather_outputs,
        collate=measured.collate_draws,
    )
    return {
        "weights_digest": weights,
        "mean": mean,
        "dependence": dependence,
        "draws_data": measured.collate_draws or draws_samples(engine.workload.dataset, samples[:4]),
    }


def digest_of_weights(workload: Workload) -> int:
    """A number of 32 bits for all parameters and buffers."""
    value = 0
    for each in each_weight(workload).values():
        value = zlib.crc32(str(each).encode(), value)
    return value


def each_weight(workload: Workload) -> dict[str, int]:
    """A number for every parameter and buffer of a whole model; of one without values, for what makes them."""
    deferred = workload.deferred

    def number(tensor: torch.Tensor) -> int:
        return digest_of_sample(deferred.tape.recipe(tensor) if deferred is not None and tensor.is_meta else tensor)

    named = [*workload.model.named_parameters(), *workload.model.named_buffers()]
    return {name: number(each) for name, each in named}


def count_step_flops(engine: Engine) -> tuple[int | None, str]:
    """Floating-point operations of one step of the global batch, or why they are unknown."""
    total = engine.run.workload.global_batch_size
    samples = spread_over(engine.workload.dataset, 2)[:total]
    size = len(samples)
    batch = engine.placed(*engine.load(0, samples).micro_batches)

    def once() -> None:
        loss_of(engine.workload.loss, batch.call(engine.model), batch.targets).backward()

    try:
        flops = count_flops(once)
    except Exception as error:  # a counter that does not know an operation of the user's model must not end the run
        return None, f"torch could not count: {type(error).__name__}: {error}"
    finally:
        engine.model.zero_grad(set_to_none=True)
        engine.back()
    if flops is None:
        return None, "torch counts no FLOPs in this model: it has no matrix product or convolution"
    return flops * total // size, ""


def least_pieces(engine: Engine) -> int:
    """Into how many pieces the batch must be cut to fit into the memory that is free."""
    samples = spread_over(engine.workload.dataset, 2)
    size = len(samples)
    batch = engine.placed(*engine.load(0, samples).micro_batches)
    held = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal held
        held += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_of(engine.workload.loss, batch.call(engine.model), batch.targets)
    engine.back()
    total = engine.run.workload.global_batch_size
    weights = sum(each.numel() * each.element_size() for each in engine.model.parameters())
    per_sample = max(0, held - 2 * weights) / size
    return min(total, max(1, math.ceil(per_sample * total / (SHARE_OF_MEMORY * free_bytes(engine.run, engine.device)))))
