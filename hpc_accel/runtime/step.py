"""One training step of any layout: data, forward and backward over the micro-batches, optimizer, all timed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from hpc_accel.parallel.apply import ParallelModel
from hpc_accel.parallel.memory_layout import channels_last
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.runtime.batches import Batch, ShareSampler
from hpc_accel.runtime.copies import Copies
from hpc_accel.runtime.in_flight import StepInFlight, read_later
from hpc_accel.runtime.loss import MicroBatchLoss, counts_of
from hpc_accel.runtime.phase_timer import PhaseTimer
from hpc_accel.study.recipe import Recipe

CHUNKS = {"forward_one_chunk": "forward", "backward_one_chunk": "backward", "backward_weight_one_chunk": "backward"}
"""What a pipeline schedule calls, and the phase it is."""


class Stepper:
    """Runs training steps on this rank. `num_steps` counts them, from the run's beginning.

    On a GPU the host is one step ahead: it launches a step and waits for the one before, so that the device finds its
    next work ready. `settle` waits for all.
    """

    def __init__(
        self,
        *,
        place: RankCoordinates,
        device: torch.device,
        model: ParallelModel,
        recipe: Recipe,
        loss: MicroBatchLoss,
        optimizer: torch.optim.Optimizer | None,
        sampler: ShareSampler,
        batches: Iterator[Batch],
        clock: PhaseTimer,
    ) -> None:
        self.place = place
        self.device = device
        self.model = model
        self.recipe = recipe
        self.loss = loss
        self.optimizer = optimizer
        self.sampler = sampler
        self.batches = batches
        self.clock = clock
        self.num_steps = sampler.first_step
        self._copies = Copies(device, pinned=recipe.pin_memory)
        self._in_flight: deque[StepInFlight] = deque()
        if model.schedule is not None:
            _time_chunks(model.schedule, clock)

    def step(self) -> StepInFlight:
        """One step on the next global batch, launched. Collective over all ranks of the run."""
        scale = self.loss.scale
        losses: list[torch.Tensor] = []
        self.clock.begin()
        with self.clock.phase("data"):
            inputs, targets = self.next_batch()
        if self.model.schedule is not None:
            self._pipeline(inputs, targets, losses)
        else:
            self._accumulate(inputs, targets, losses)
        self.num_steps += 1
        with self.clock.phase("optimizer"):
            self._update()
        timing = self.clock.finish()
        loss = read_later(torch.stack(losses).sum() / scale) if losses else None
        launched = StepInFlight(timing, loss)
        self._in_flight.append(launched)
        self._wait(self.clock.num_ahead)
        return launched

    def _wait(self, num_ahead: int) -> None:
        while len(self._in_flight) > num_ahead:
            self._in_flight.popleft().result()

    def settle(self) -> None:
        """Wait for all steps, before something other than steps happens: a window's end, a checkpoint."""
        self._wait(0)
        self.clock.settle()

    def release(self) -> None:
        """Let go of the model, the optimizer and the data: no step can follow."""
        self.settle()
        del self.model, self.optimizer, self.batches

    def next_batch(self) -> Batch:
        """This rank's share of the next global batch, on the device; the loss is told how many of it count."""
        inputs, targets = next(self.batches)
        layout, step = self.place.layout, self.num_steps
        counts = counts_of(self.sampler.valid(step), layout.accumulation_steps, self.place.micro_batch_size)
        self.loss.begin(counts, self.sampler.num_samples_of(step))
        *moved, targets = self._copies((*inputs, targets))
        return self._ordered(moved), targets

    def moved(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Inputs on the device, stored as the recipe wants them."""
        return self._ordered(self._copies(inputs))

    def _ordered(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(map(channels_last, inputs)) if self.recipe.channels_last else tuple(inputs)

    def _accumulate(self, inputs: tuple[torch.Tensor, ...], targets: torch.Tensor, losses: list[torch.Tensor]) -> None:
        size, last = self.place.micro_batch_size, self.place.layout.accumulation_steps - 1
        parts = zip(*(each.split(size) for each in inputs), targets.split(size), strict=True)
        for index, (*micro_inputs, micro_targets) in enumerate(parts):
            self.model.synchronise_gradients(index == last)
            with self.clock.phase("forward"):
                loss = self.loss(self.model.module(*micro_inputs), micro_targets)
            with self.clock.phase("backward"):
                loss.backward()
            losses.append(loss.detach())
        self._finish_gradients()

    def _pipeline(self, inputs: tuple[torch.Tensor, ...], targets: torch.Tensor, losses: list[torch.Tensor]) -> None:
        assert self.model.schedule is not None
        arguments = inputs if self.place.is_first_stage else ()
        target = targets if self.place.is_last_stage else None
        self.model.schedule.step(*arguments, target=target, losses=losses, return_outputs=False)
        losses[:] = [loss.detach() for loss in losses]
        self._finish_gradients()

    def _finish_gradients(self) -> None:
        if self.model.partial or self.model.average is not None:
            with self.clock.phase("backward"):
                self.model.finish_gradients(averages=self.recipe.average_every == 1)

    def _update(self) -> None:
        scaler = self.loss.scaler
        if scaler is not None:
            scaler.step_together(self.optimizer)
        elif self.optimizer is not None:
            self.optimizer.step()
        if self.optimizer is None:
            return
        self.optimizer.zero_grad(set_to_none=True)
        if self.num_steps % self.recipe.average_every == 0:
            self.average_replicas()

    def average_replicas(self) -> None:
        """Make replicas that train alone (local SGD) equal; nothing elsewhere. Collective over them."""
        if self.recipe.average_every > 1 and self.model.average is not None and self.model.parameters:
            self.model.average(self.model.parameters)


def _time_chunks(schedule: Any, clock: PhaseTimer) -> None:
    """Time the forward and backward of every micro-batch where the schedule calls them."""

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with clock.phase(name):
                return call(*args, **kwargs)

        return wrapper

    for stage in getattr(schedule, "_stages", None) or [schedule._stage]:
        for method, name in CHUNKS.items():
            setattr(stage, method, timed(name, getattr(stage, method)))
