"""One training step of any layout: data, forward and backward over the micro-batches, optimizer, all timed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist

from hpc_accel.parallel import planted
from hpc_accel.parallel.apply import ParallelModel
from hpc_accel.parallel.memory_layout import channels_last
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.runtime.batches import Share, ShareOfStream, ShareSampler
from hpc_accel.runtime.clip import GradientClip
from hpc_accel.runtime.copies import Copies
from hpc_accel.runtime.in_flight import StepInFlight, read_later
from hpc_accel.runtime.loss import MicroBatchLoss, counts_of
from hpc_accel.runtime.phase_timer import PhaseTimer
from hpc_accel.runtime.still import Still, held_still
from hpc_accel.runtime.weight import Weigh
from hpc_accel.study.recipe import Recipe
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.schedules import Course

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
        clip: GradientClip | None = None,
        course: Course | None = None,
        sampler: ShareSampler,
        shares: Iterator[Share],
        clock: PhaseTimer,
        weigh: Weigh | None = None,
        stream: ShareOfStream | None = None,
    ) -> None:
        self.place = place
        self.device = device
        self.model = model
        self.recipe = recipe
        self.loss = loss
        self.optimizer = optimizer
        self.clip = clip
        self.course = course
        self.grad_norm: torch.Tensor | None = None
        """Of the last step, before it was clipped."""
        self._parameters = model.parameters
        self.sampler = sampler
        self.shares = shares
        self.stream = stream
        self.clock = clock
        self.num_steps = sampler.first_step
        self.digests: list[int] = []
        """Of the samples of the last batch, where the loader makes them."""
        self.still: Still | None = None
        """Holds randomness still, in steps that are compared."""
        self._weigh = weigh
        self._copies = Copies(device, pinned=recipe.pin_memory)
        self._in_flight: deque[StepInFlight] = deque()
        if model.schedule is not None:
            self._watch_chunks(model.schedule)

    def step(self) -> StepInFlight:
        """One step on the next global batch, launched. Collective over all ranks of the run."""
        scale = self.loss.scale
        self.clock.begin()
        with self.clock.phase("data"):
            micro_batches = self.next_batch()
        losses = self.backward(micro_batches)
        rate = self.learning_rate
        with self.clock.phase("optimizer"):
            self.update()
        timing = self.clock.finish()
        loss = read_later(torch.stack(losses).sum() / scale) if losses else None
        norm = read_later(self.grad_norm) if self.grad_norm is not None else None
        launched = StepInFlight(timing, loss, rate, norm)
        self._in_flight.append(launched)
        self._wait(self.clock.num_ahead)
        return launched

    def backward(self, micro_batches: list[Batch]) -> list[torch.Tensor]:
        """Forward and backward of a batch: gradients are whole afterwards. The losses of its micro-batches here."""
        losses: list[torch.Tensor] = []
        with held_still(self.still) if self.still is not None else nullcontext():
            if self.model.schedule is not None:
                self._pipeline(micro_batches[0], losses)
            else:
                self._accumulate(micro_batches, losses)
        self._plant()
        self.num_steps += 1
        return losses

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
        del self.model, self.optimizer, self.clip, self.course, self._parameters, self.shares

    def next_batch(self) -> list[Batch]:
        """This rank's share of the next global batch, on the device; the loss is told how many of it count.

        Without stages in micro-batches that hold only what counts, where anything does; with them as one.
        """
        share = next(self.shares)
        self.digests = share.digests
        layout, step = self.place.layout, self.num_steps
        counts = counts_of(self.sampler.valid(step), layout.accumulation_steps, self.place.micro_batch_size)
        micro_batches = share.micro_batches
        if self.model.schedule is None:
            pairs = zip(micro_batches, counts, strict=True)
            micro_batches = [each.cut(slice(count)) if 0 < count < each.count else each for each, count in pairs]
        if self._weigh is None or self.loss.mean.over != "items" or not self.place.is_last_stage:
            self.loss.begin(counts, self.sampler.num_samples_of(step))
        else:
            self._begin_weighted(self._weigh, counts, micro_batches)
        return [self._ordered(each) for each in self._copies(micro_batches)]

    def _begin_weighted(self, weigh: Weigh, counts: list[int], micro_batches: list[Batch]) -> None:
        """Tell the loss how much each micro-batch counts, and all of all replicas together."""
        if self.model.schedule is None:
            parts = [each.targets for each in micro_batches]
        else:
            begins = (index * self.place.micro_batch_size for index in range(len(counts)))
            pairs = zip(begins, counts, strict=True)
            parts = [micro_batches[0].cut(slice(begin, begin + count)).targets for begin, count in pairs]
        weights = [weigh(part) if count else 0.0 for part, count in zip(parts, counts, strict=True)]
        total, group = sum(weights), self.place.group("dp")
        if group is not None and planted.is_on("mean_per_rank"):
            total *= self.place.layout.dp
        elif group is not None:
            on_gpus = dist.get_backend(group) == "nccl"
            shared = torch.tensor(total, dtype=torch.float64, device=self.device if on_gpus else "cpu")
            dist.all_reduce(shared, group=group)
            total = float(shared)
        self.loss.begin(counts, total or 1.0, weights)

    def moved(self, batch: Batch) -> Batch:
        """A batch on the device, stored as the recipe wants it."""
        (found,) = self._copies([batch])
        return self._ordered(found)

    def _ordered(self, batch: Batch) -> Batch:
        return batch.with_inputs(channels_last) if self.recipe.channels_last else batch

    def _accumulate(self, micro_batches: list[Batch], losses: list[torch.Tensor]) -> None:
        last = len(micro_batches) - 1
        for index, batch in enumerate(micro_batches):
            self.model.synchronise_gradients(index == last and not planted.is_on("replica_not_averaged"))
            self._hold(index, batch.count)
            if planted.is_on("statistics_twice"):
                with torch.no_grad():
                    batch.call(self.model.module)
            with self.clock.phase("forward"):
                loss = self.loss(batch.call(self.model.module, **self.loss.told), batch.targets)
            with self.clock.phase("backward"):
                loss.backward()
            losses.append(loss.detach())
        self._finish_gradients()

    def _pipeline(self, batch: Batch, losses: list[torch.Tensor]) -> None:
        assert self.model.schedule is not None
        arguments = batch.args if self.place.is_first_stage and not self.model.given else ()
        given = batch.args, batch.kwargs | self.loss.told
        named: dict[str, Any] = {"given": given} if self.model.given else {}
        target = self.loss.hold(batch) if self.place.is_last_stage else None
        self.model.schedule.step(*arguments, target=target, losses=losses, return_outputs=False, **named)
        losses[:] = [loss.detach() for loss in losses]
        self._finish_gradients()

    def _finish_gradients(self) -> None:
        if self.model.unfinished:
            with self.clock.phase("backward"):
                self.model.finish_gradients(averages=self.recipe.average_every == 1)

    def _hold(self, micro_batch: int, count: int | None = None) -> None:
        """Say which samples are computed next, to what holds randomness still: of the micro-batch the first `count`."""
        if self.still is not None:
            step = self.num_steps
            size, samples = self.place.micro_batch_size, self.sampler.samples(step)
            self.still.batch(step, samples[micro_batch * size :][: size if count is None else count])

    def _plant(self) -> None:
        with torch.no_grad():
            if planted.is_on("gradient_doubled"):
                for each in self.model.parameters:
                    if each.grad is not None:
                        each.grad.mul_(2.0)
            if planted.is_on("one_parameter_lost") and self.model.parameters:
                self.model.parameters[0].grad = torch.zeros_like(self.model.parameters[0])

    @property
    def learning_rate(self) -> float | None:
        """That of the first parameter group; None without one."""
        rate = self.optimizer.param_groups[0].get("lr") if self.optimizer is not None else None
        return None if rate is None else float(rate)

    def update(self) -> None:
        """Clip the gradients, one step of the optimizer and of its learning rate, and no gradients left."""
        scaler = self.loss.scaler
        if planted.is_on("stale_stage", dist.get_rank() if dist.is_initialized() else 0):
            stepped = False
        elif scaler is not None:
            stepped = scaler.step_together(self.optimizer, self._clip_gradients, asks=self.course is not None)
        else:
            self._clip_gradients()
            stepped = True
            if self.optimizer is not None:
                self.optimizer.step()
        if self.course is not None and stepped:
            self.course.step()
        if self.optimizer is None:
            return
        for each in self._parameters:  # also of those that the optimizer leaves out
            each.grad = None
        if self.num_steps % self.recipe.average_every == 0:
            self.average_replicas()

    def _clip_gradients(self) -> None:
        self.grad_norm = self.clip() if self.clip is not None else None

    def average_replicas(self) -> None:
        """Make replicas that train alone (local SGD) equal; nothing elsewhere. Collective over them."""
        if self.recipe.average_every > 1 and self.model.average is not None and self.model.parameters:
            self.model.average(self.model.parameters)

    def _watch_chunks(self, schedule: Any) -> None:
        """Time the forward and backward of every micro-batch where the schedule calls them."""

        def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(micro_batch: int, *args: Any, **kwargs: Any) -> Any:
                self._hold(micro_batch)
                with self.clock.phase(name):
                    return call(micro_batch, *args, **kwargs)

            return wrapper

        for stage in getattr(schedule, "_stages", None) or [schedule._stage]:
            for method, name in CHUNKS.items():
                setattr(stage, method, watched(name, getattr(stage, method)))
