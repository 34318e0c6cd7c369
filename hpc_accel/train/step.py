"""One training step of any layout: data, forward and backward over the micro-batches, optimizer, all timed.

The loss of a micro-batch is divided by their number, so gradients add up to those of the global batch's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpc_accel.parallel.apply import ParallelModel
from hpc_accel.parallel.mesh import Place
from hpc_accel.train.clock import CudaClock, HostClock, Span
from hpc_accel.workloads.workload import Loss

if TYPE_CHECKING:
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
    from torch.distributed.pipelining.schedules import PipelineScheduleSingle


class MicroBatchLoss:
    """The workload's loss of one micro-batch in fp32, divided by their number and scaled for fp16 if asked.

    Without state, because a pipeline schedule also calls it on tensors without values to infer shapes.
    """

    def __init__(self, loss: Loss, num_micro_batches: int, scaler: ShardedGradScaler | None) -> None:
        self.loss = loss
        self.num_micro_batches = num_micro_batches
        self.scaler = scaler

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The scalar to differentiate."""
        outputs = outputs.float() if outputs.is_floating_point() else outputs
        loss = self.loss(outputs, targets) / self.num_micro_batches
        return self.scaler.scale(loss) if self.scaler is not None else loss

    @property
    def scale(self) -> float:
        """What the scaler multiplies losses with at present."""
        return float(self.scaler.get_scale()) if self.scaler is not None else 1.0


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one rank saw of one step. `loss` is its share's mean; None where no loss is computed."""

    step: Span
    phases: list[Span]
    loss: float | None


class Stepper:
    """Runs training steps on this rank."""

    def __init__(
        self,
        *,
        place: Place,
        device: torch.device,
        model: ParallelModel,
        loss: MicroBatchLoss,
        optimizer: torch.optim.Optimizer | None,
        batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
        clock: HostClock | CudaClock,
    ) -> None:
        self.place = place
        self.device = device
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.batches = batches
        self.clock = clock
        if model.schedule is not None:
            _time_chunks(model.schedule, clock)

    def step(self) -> StepResult:
        """One step on the next global batch. Collective over all ranks of the run."""
        scale = self.loss.scale
        losses: list[torch.Tensor] = []
        self.clock.begin()
        with self.clock.phase("data"):
            inputs, targets = next(self.batches)
            inputs, targets = inputs.to(self.device), targets.to(self.device)
        if self.model.schedule is not None:
            self._pipeline(self.model.schedule, inputs, targets, losses)
        else:
            self._accumulate(inputs, targets, losses)
        with self.clock.phase("optimizer"):
            self._update()
        step, phases = self.clock.finish()
        loss = float(torch.stack(losses).sum()) / scale if losses else None
        return StepResult(step=step, phases=phases, loss=loss)

    def _accumulate(self, inputs: torch.Tensor, targets: torch.Tensor, losses: list[torch.Tensor]) -> None:
        module, size = self.model.module, self.place.layout.micro_batch_size
        last = self.place.layout.accumulation_steps - 1
        micro_batches = zip(inputs.split(size), targets.split(size), strict=True)
        for index, (micro_inputs, micro_targets) in enumerate(micro_batches):
            with _without_reduction(module, index < last):
                with self.clock.phase("forward"):
                    loss = self.loss(module(micro_inputs), micro_targets)
                with self.clock.phase("backward"):
                    loss.backward()
            losses.append(loss.detach())

    def _pipeline(
        self,
        schedule: PipelineScheduleSingle,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        losses: list[torch.Tensor],
    ) -> None:
        arguments = (inputs,) if self.place.is_first_stage else ()
        target = targets if self.place.is_last_stage else None
        schedule.step(*arguments, target=target, losses=losses, return_outputs=False)
        losses[:] = [loss.detach() for loss in losses]

    def _update(self) -> None:
        scaler = self.loss.scaler
        if self.optimizer is None:
            return
        if scaler is not None:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _without_reduction(module: nn.Module, skip: bool) -> AbstractContextManager[Any]:
    """Gradients of all but the last micro-batch stay local: they are all-reduced once per step."""
    if skip and isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


def _time_chunks(schedule: PipelineScheduleSingle, clock: HostClock | CudaClock) -> None:
    """Time the forward and backward of every micro-batch where the schedule calls them."""

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with clock.phase(name):
                return call(*args, **kwargs)

        return wrapper

    stage = schedule._stage
    for method, name in (("forward_one_chunk", "forward"), ("backward_one_chunk", "backward")):
        setattr(stage, method, timed(name, getattr(stage, method)))
