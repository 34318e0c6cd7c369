"""What is measured of a model, its loss and its data before any step of the serial run."""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import default_collate

from hpc_accel.measure.flops import count_flops
from hpc_accel.parallel.loss_device import move_loss
from hpc_accel.runtime.seeded import digest_of_sample, draws_samples
from hpc_accel.runtime.still import held_still
from hpc_accel.runtime.weight import MeanOver
from hpc_accel.train.parity.engine import Engine, summaries_raw
from hpc_accel.train.parity.mean import measure_mean
from hpc_accel.train.parity.room import free_bytes
from hpc_accel.workloads.chain import as_inputs

MOST_MEASURED = 64
"""Samples on which the mean is measured."""
SHARE_OF_MEMORY = 0.4
APART = 1e-4
"""Outputs of a sample that differ by more, relative to the largest, depend on the others in its batch."""


class Dependence(BaseModel):
    """Which parts of a model act on samples together, so that the cut of the batch changes what is computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outputs: bool = False
    state: bool = False
    loss: bool = False
    layers: tuple[str, ...] = ()
    gathered: bool = False
    """Whether the loss is given the outputs of all replicas together."""

    @property
    def is_any(self) -> bool:
        """Whether any part does."""
        return self.outputs or self.state or self.loss


def measure_facts(engine: Engine) -> dict[str, Any]:
    """What is measured of model, loss and data before any step."""
    dataset = engine.workload.dataset
    count = min(len(dataset), MOST_MEASURED)  # type: ignore[arg-type]
    spread = [index * len(dataset) // count for index in range(count)]  # type: ignore[arg-type]
    inputs, targets = default_collate([engine.dataset[index] for index in spread])
    weights = digest_of_weights(engine.workload.model)
    outputs, parts, state = _forward_twice(engine, engine.placed(as_inputs(inputs)), spread)
    targets = engine.placed([targets])[0]
    mean = _mean_of(engine, outputs, targets)
    apart = float((outputs.double() - parts.double()).abs().max()) if outputs.is_floating_point() else 0.0
    largest = float(outputs.double().abs().max()) or 1.0
    depends = not apart <= APART * largest
    layers = [type(each).__name__ for each in engine.workload.model.modules() if isinstance(each, _BatchNorm)]
    dependence = Dependence(
        outputs=depends,
        state=state,
        loss=mean.over == "neither",
        layers=tuple(sorted(set(layers))),
        gathered=engine.workload.gather_outputs,
    )
    return {
        "weights_digest": weights,
        "mean": mean,
        "dependence": dependence,
        "draws_data": draws_samples(dataset, spread[:4]),
    }


def _mean_of(engine: Engine, outputs: torch.Tensor, targets: torch.Tensor) -> MeanOver:
    """What the loss is over; the loss module lies on the device, as it does in a step."""
    move_loss(engine.workload.loss, engine.device)
    with held_still(engine.still):
        engine.still.batch(0, list(range(len(outputs))))
        return measure_mean(engine.workload, outputs, targets)


def _forward_twice(
    engine: Engine, inputs: tuple[torch.Tensor, ...], samples: list[int]
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Outputs of all samples together and of two unequal parts, and whether buffers change that outputs depend on."""
    first = max(2, len(samples) // 3)
    before = summaries_raw(engine.model)

    def run(part: slice) -> torch.Tensor:
        with torch.no_grad(), held_still(engine.still):
            engine.still.batch(0, samples[part])
            found: torch.Tensor = engine.model(*(each[part] for each in inputs))
        return found

    together = run(slice(None))
    again = run(slice(None))
    engine.back()
    parts = [run(slice(0, first))] + ([run(slice(first, None))] if first < len(samples) else [])
    engine.back()
    stateful = bool(before) and not torch.equal(together, again)
    return together, torch.cat(parts), stateful


def digest_of_weights(model: torch.nn.Module) -> int:
    """A number of 32 bits for all parameters and buffers."""
    value = 0
    for each in each_weight(model).values():
        value = zlib.crc32(str(each).encode(), value)
    return value


def each_weight(model: torch.nn.Module) -> dict[str, int]:
    """A number for every parameter and buffer of a whole model."""
    return {name: digest_of_sample(each) for name, each in [*model.named_parameters(), *model.named_buffers()]}


def count_step_flops(engine: Engine) -> tuple[int | None, str]:
    """Floating-point operations of one step of the global batch, or why they are unknown."""
    total = engine.run.workload.global_batch_size
    size = min(2, total, len(engine.dataset))
    inputs, targets = engine.load(0, list(range(size)))

    def once() -> None:
        outputs = engine.model(*engine.placed(inputs))
        engine.workload.loss(outputs, engine.placed([targets])[0]).backward()

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
    size = min(2, len(engine.dataset))
    inputs, targets = engine.load(0, list(range(size)))
    held = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal held
        held += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        engine.workload.loss(engine.model(*engine.placed(inputs)), engine.placed([targets])[0])
    engine.back()
    total = engine.run.workload.global_batch_size
    weights = sum(each.numel() * each.element_size() for each in engine.model.parameters())
    per_sample = max(0, held - 2 * weights) / size
    return min(total, max(1, math.ceil(per_sample * total / (SHARE_OF_MEMORY * free_bytes(engine.run, engine.device)))))
