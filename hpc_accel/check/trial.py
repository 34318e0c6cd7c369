"""A micro-batch forward and backward: through the whole model, and through the pieces of each layout, here and now.

On this processor, with few samples: the shapes are those of the run, its speed is not measured. What is not tried (a
model too large, operations that would take minutes, kernels of a GPU, tensor-parallel ranks) is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from hpc_accel.check.samples import MOST_LOOKED_AT, Seen
from hpc_accel.errors import ConfigError, HpcAccelError, NonFiniteError
from hpc_accel.parallel.loss_device import loss_of, move_loss
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.parallel.pipeline import stage_layers
from hpc_accel.parallel.traced import trace
from hpc_accel.runtime.precision import AUTOCAST
from hpc_accel.runtime.still import Still, held_still
from hpc_accel.runtime.weight import MeanOver, Weigh
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.run import Run
from hpc_accel.study.sources import users_frame
from hpc_accel.study.stage_partition import automatic_split
from hpc_accel.train.parity.mean import losses_of, measure_mean
from hpc_accel.train.parity.together import fixed_statistics
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.chain import is_sequence
from hpc_accel.workloads.facts_without_weights import SHARE_OF_MEMORY, free_memory_bytes
from hpc_accel.workloads.nested import HALVES, mapped
from hpc_accel.workloads.workload import Workload

MOST_OPERATIONS = 2e12
"""Floating-point operations of one forward and backward: some tens of seconds of a processor."""
MOST_BYTES = 2 * 10**9
"""Of parameters, and of activations, however much is free: others work here too."""
BUDGET_S = 60.0
"""For the pieces of all layouts of a workload."""


class Pieces(NamedTuple):
    """What differs between layouts on one processor. `split` holds layers per stage; empty without stages."""

    size: int
    split: tuple[int, ...]
    precision: str

    def __str__(self) -> str:
        """In words."""
        stages = f" in stages of {'+'.join(map(str, self.split))} layers" if self.split else ""
        precision = "" if self.precision == "fp32" else f" in {self.precision}"
        return f"{self.size} sample{'s' if self.size > 1 else ''}{stages}{precision}"


def largest_with_values_bytes() -> int:
    """Parameters up to which a model is built and run here."""
    return min(int(SHARE_OF_MEMORY * free_memory_bytes()), MOST_BYTES)


class Trial:
    """One workload tried. What it found is in `to_json` and `would_fail`."""

    def __init__(self, workload: Workload, entry: str, seen: Seen, facts: ModelFacts) -> None:
        self.workload, self.entry, self.seen, self.facts = workload, entry, seen, facts
        self.most = self._affordable()
        self.still = Still(seed=0)
        self.loss: float | None = None
        self.mean: MeanOver | None = None
        self.tried: list[str] = []
        self.not_tried = ""
        self.would_fail: list[dict[str, Any]] = []

    def to_json(self) -> dict[str, Any]:
        """In plain values."""
        return {
            "loss": self.loss,
            "mean_over": self.mean.over if self.mean else None,
            "mean": self.mean.told if self.mean else None,
            "tried": self.tried,
            "not_tried": self.not_tried,
        }

    def whole(self, say: Any) -> None:
        """The whole model as it was built. Raises ConfigError where it fails, NonFiniteError where the loss is none."""
        count = min(self.most, max(2, len(self.seen.samples)))
        if count < 1:
            flops = 3 * self.facts.forward_flops_per_sample
            self.not_tried = f"one sample takes {flops:.2g} operations, or more memory than a shared machine lends"
            return
        say(f"running {count} samples forward and backward")
        batch = self.seen.batch(count)
        try:
            outputs = batch.call(self.workload.model)
            self.loss = self._backward(outputs, batch.targets)
        except Exception as error:
            raise self._failed(f"{count} samples", error) from error
        say("measuring what the loss is the mean over")
        losses = losses_of(self.workload, batch, outputs, partial(self._computed, batch))
        # Dropout and noise would make every part of the batch another one; statistics of the batch are no matter of it.
        with fixed_statistics(self.workload.model), held_still(self.still):
            self.still.batch(0, range(count))
            self.mean = measure_mean(self.workload, losses)
        weigh = Weigh(self.mean, self.workload.weight)
        counts = self.mean.over != "items" or self.mean.takes_total or weigh(batch.targets)
        if counts and not math.isfinite(self.loss):
            raise NonFiniteError(
                f"entry {self.entry!r}: the loss of {count} samples is {self.loss}",
                "training begins with a loss that is a number",
                "look for log(0), a division by zero, labels out of range, or values that are NaN in the data",
            )

    def _computed(self, batch: Batch, part: torch.Tensor) -> tuple[float, Any]:
        some = batch.cut(part)
        self.still.batch(0, part.tolist())
        with torch.no_grad():
            return float(loss_of(self.workload.loss, some.call(self.workload.model), some.targets)), some.targets

    def pieces(self, runs: Sequence[Run], say: Any) -> None:
        """What each layout computes, once for all runs in which it is the same."""
        if self.most < 1:
            return
        wanted: dict[Pieces, list[Run]] = {}
        for run in runs:
            if run.infer is None:
                wanted.setdefault(self._pieces(run), []).append(run)
        end_s = time.monotonic() + BUDGET_S
        for number, (pieces, same) in enumerate(wanted.items()):
            if time.monotonic() > end_s:
                self.not_tried = f"{len(wanted) - number} of {len(wanted)} kinds of micro-batches, for want of time"
                return
            say(f"running {pieces} forward and backward")
            try:
                self._run(pieces, same[0])
                self.tried.append(str(pieces))
            except Exception as error:
                told = error if isinstance(error, HpcAccelError) else self._failed(str(pieces), error)
                where = users_frame(error)
                reason = {"value": told.value, "rule": told.rule, "remedy": told.remedy, "where": where}
                self.would_fail += [{"label": run.label, **reason} for run in same]

    def _pieces(self, run: Run) -> Pieces:
        layout = run.layout
        split: tuple[int, ...] = ()
        if layout.num_stages > 1:
            split = automatic_split(self.facts, layout.num_stages) if isinstance(layout.split, str) else layout.split
        precision = run.recipe.precision if AUTOCAST[run.recipe.precision] is not None else "fp32"
        precision = "bf16" if precision == "fp8" else precision  # 8-bit kernels are a GPU's
        return Pieces(min(layout.micro_batch_size, self.most), split, precision)

    def _run(self, pieces: Pieces, run: Run) -> None:
        batch = self.seen.batch(pieces.size)
        dtype = AUTOCAST[pieces.precision]
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            if not pieces.split:
                outputs = batch.call(self.workload.model)
            elif is_sequence(self.workload.model):
                self._staged(pieces.split, batch.args, batch.targets)
                return
            else:
                layout = run.layout.model_copy(update={"micro_batch_size": pieces.size, "shares": None})
                place = RankCoordinates(layout=layout, mesh=None, pp_rank=0, dp_rank=0, tp_rank=0)
                outputs = trace(self.workload, pieces.split, place, dtype).pipe(*batch.args)
                (outputs,) = outputs if isinstance(outputs, tuple) else (outputs,)
        self._backward(outputs, batch.targets)

    def _staged(self, split: tuple[int, ...], inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> None:
        """Stage by stage, as ranks do it: each gets values alone, and sends back the gradient of what it was given."""
        model: Any = self.workload.model
        entering: list[torch.Tensor] = []
        leaving: list[torch.Tensor] = []
        states = inputs
        for stage in range(len(split)):
            output = stage_layers(model, split, stage)(*states)
            leaving.append(output)
            if stage < len(split) - 1:
                states = (output.detach().requires_grad_(),)
                entering.append(states[0])
        self._backward(leaving[-1], targets)
        for output, entered in zip(reversed(leaving[:-1]), reversed(entering), strict=True):
            output.backward(entered.grad)

    def _backward(self, outputs: Any, targets: Any) -> float:
        move_loss(self.workload.loss, torch.device("cpu"))
        with torch.autocast("cpu", enabled=False):
            outputs = mapped(lambda each: each.float() if each.dtype in HALVES else each, outputs)
            loss = loss_of(self.workload.loss, outputs, targets)
            loss.backward()
        self.workload.model.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _failed(self, what: str, error: Exception) -> ConfigError:
        first = next(iter(str(error).splitlines()), "")
        return ConfigError(
            f"entry {self.entry!r}: {what} forward and backward: {type(error).__name__}: {first}",
            "the model takes a batch of dataset inputs, the loss its outputs and a batch of targets, of any size",
            "correct the line that is named; normalisation over the batch needs micro-batches of two samples or more",
        )

    def _affordable(self) -> int:
        """Samples that one pass may take, at most as many as a run's micro-batch would be shortened to."""
        flops = 3 * self.facts.forward_flops_per_sample
        num_bytes = 4 * sum(layer.saved_elements_per_sample for layer in self.facts.layers)
        room = min(MOST_BYTES, SHARE_OF_MEMORY * free_memory_bytes())
        return int(min(MOST_LOOKED_AT, MOST_OPERATIONS / max(flops, 1), room / max(num_bytes, 1)))
