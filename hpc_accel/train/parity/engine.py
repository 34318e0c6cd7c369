"""Steps of the serial run: the user's model on one rank, randomness held still, under plain SGD.

The length of each step is 1 % of the weights' own, whatever the loss's scale: enough that weights which were not
updated show, and little enough that rounding does not grow. So the rates are part of the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from hpc_accel.parallel import planted
from hpc_accel.parallel.apply import parallelize
from hpc_accel.parallel.mesh import rank_coordinates
from hpc_accel.parallel.ties import plain
from hpc_accel.record.parity import Twin
from hpc_accel.runtime.batches import Collate, Fetched, Share
from hpc_accel.runtime.loss import MicroBatchLoss
from hpc_accel.runtime.precision import AUTOCAST
from hpc_accel.runtime.seeded import Drawn, Seeded
from hpc_accel.runtime.still import Still, drop_nothing, held_still
from hpc_accel.runtime.weight import MeanOver, Weigh
from hpc_accel.study.layout import Layout, Shard
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Run
from hpc_accel.train.parity.double import doubled
from hpc_accel.train.parity.pieces import BatchPiece, Cutting, sampler_of
from hpc_accel.train.parity.sketch import reals, sketch
from hpc_accel.workloads import entry
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.nested import HALVES, raised
from hpc_accel.workloads.twin import keep_blocks
from hpc_accel.workloads.workload import Workload

STEP_LENGTH = 0.01
NUM_GRADIENTS = 2
"""Steps whose gradients are compared."""
SCALE = {"fp16": 2.0**12}
WIRE = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(kw_only=True)
class Trajectory:
    """What steps left: losses, their spread over pieces, rates, gradients of the first steps, weights and buffers."""

    losses: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    gradients: list[np.ndarray] = field(default_factory=list)
    """Of each step [parameters, WIDTH]."""
    update: np.ndarray | None = None
    """The change of the weights over all steps [parameters, WIDTH]."""
    buffers: dict[str, list[float]] = field(default_factory=dict)
    samples: list[list[tuple[int, int]]] = field(default_factory=list)
    """Of each step: index and digest of each sample."""
    totals: list[float] = field(default_factory=list)
    """Of each step: the weight of the global batch, which losses are divided by."""


def build_still(
    run: Run, *, raised: bool, twin: Twin | None = None, double: bool = False, filled: bool = True
) -> Workload:
    """The workload with nothing dropped, or a twin of it; `raised`: weights of 16 bits in fp32; `double`: in fp64.

    Not `filled`, parameters of a model built on the meta device have no values yet.
    """
    workload = entry.build_deferred(run.workload, run.seed)
    if twin is not None:
        keep_blocks(workload, twin.blocks)
    with workload.deferred.recording() if workload.deferred is not None else nullcontext():
        workload = _stilled(workload, raised=raised, double=double)
    if filled and workload.deferred is not None:
        workload.deferred.fill([workload.model])
    return workload


def _stilled(workload: Workload, *, raised: bool, double: bool) -> Workload:
    drop_nothing(workload.model)
    if raised and any(each.dtype in HALVES for each in workload.model.parameters()):
        workload.model.float()
    if planted.is_on("other_weights", dist.get_rank() if dist.is_initialized() else 0):
        with torch.no_grad():
            next(workload.model.parameters()).add_(0.01)
    return doubled(workload) if double else workload


class Engine:
    """One model on one rank, which goes back to its first weights for each trajectory."""

    def __init__(
        self,
        run: Run,
        device: torch.device,
        recipe: Recipe,
        *,
        raised: bool,
        twin: Twin | None = None,
        double: bool = False,
    ) -> None:
        self.run, self.device, self.recipe, self.raised = run, device, recipe, raised
        self.workload = build_still(run, raised=raised, twin=twin, double=double)
        self.names = [name for name, each in self.workload.model.named_parameters() if each.requires_grad]
        self.still = Still(run.seed)
        self.still.watch(self.workload.model)
        self.dataset = Seeded(self.workload.dataset, run.seed)
        self.sampler = sampler_of(run, self.workload.dataset)
        total = run.workload.global_batch_size
        shard: Shard = "full" if run.layout.shard == "full" and AUTOCAST[recipe.precision] is not None else "none"
        layout = Layout(micro_batch_size=total, accumulation_steps=1, shard=shard)
        place = rank_coordinates(layout, 0, device.type)
        dtype = AUTOCAST[recipe.precision]
        self.model = parallelize(
            self.workload,
            None,
            place,
            device,
            loss=MicroBatchLoss(self.workload.loss, 1, None),
            recipe=recipe,
            autocast_dtype=dtype,
        ).module
        self.mean = MeanOver()
        self.is_double = any(each.dtype == torch.float64 for each in self.workload.model.parameters())
        self._first = {name: value.detach().clone() for name, value in self._state().items()}

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: local(each) for name, each in [*self.model.named_parameters(), *self.model.named_buffers()]}

    def parameters(self) -> list[nn.Parameter]:
        """Trainable ones, in the order of `names`."""
        found = {plain(name): each for name, each in self.model.named_parameters()}
        return [found[name] for name in self.names]

    def back(self, *, nudge: int = 0) -> None:
        """The weights and buffers of the beginning; with a `nudge`, each weight moved by about its last digit.

        Which up and which down follows from the number: it is what another order of sums does everywhere at once.
        """
        signs = torch.Generator().manual_seed(nudge)
        with torch.no_grad():
            for name, value in self._state().items():
                value.copy_(self._first[name])
                if nudge and plain(name) in self.names:
                    up = torch.randint(0, 2, value.shape, generator=signs).to(value.device) * 2 - 1
                    value.mul_(1 + torch.finfo(value.dtype).eps * up.to(value.dtype))

    def load(self, step: int, samples: Sequence[int], *, digests: bool = False) -> Share:
        """The samples as one micro-batch, as the epoch of `step` draws them; on the host."""
        drawn = [Drawn(index, step // self.sampler.batches_per_epoch) for index in samples]
        collate = Collate(self.workload.rules, len(drawn), digests=digests, seed=self.run.seed)
        return collate(Fetched(self.dataset).__getitems__(drawn)).checked()

    def placed(self, batch: Batch) -> Batch:
        """On the device, and wide where the model was made wide."""
        batch = batch.moved(self.device)
        return batch.mapped(raised) if self.raised else batch

    def trajectory(
        self,
        cutting: Cutting,
        num_steps: int,
        rates: Sequence[float] | None = None,
        *,
        digests: bool = False,
        nudge: int = 0,
    ) -> Trajectory:
        """`num_steps` steps from the beginning. Without `rates` they are chosen and told."""
        self.back(nudge=nudge)
        found = Trajectory()
        for step in range(num_steps):
            pieces = cutting(step)
            losses = self._gradients(step, pieces, found, digests=digests)
            found.losses.append(sum(losses))
            weights = [len(losses) * each for each in losses]
            found.spreads.append(max(weights) - min(weights) if weights else 0.0)
            gradients = [self._gradient(each) for each in self.parameters()]
            if step < NUM_GRADIENTS:
                found.gradients.append(self._sketches(gradients))
            found.rates.append(rates[step] if rates is not None else self._rate(gradients))
            with torch.no_grad():
                for parameter, gradient in zip(self.parameters(), gradients, strict=True):
                    parameter.sub_(gradient.to(parameter.dtype), alpha=found.rates[-1])
                    parameter.grad = None
        with torch.no_grad():
            changes = [
                local(own) - self._first[name]
                for name, own in self.model.named_parameters()
                if plain(name) in self.names
            ]
        found.update = self._sketches(changes)
        found.buffers = summaries(self.model)
        return found

    def _gradients(self, step: int, pieces: Sequence[BatchPiece], found: Trajectory, *, digests: bool) -> list[float]:
        """Gradients of the global batch's loss on the parameters; the weighted loss of each piece."""
        loaded = [self.load(step, piece.samples, digests=digests) for piece in pieces]
        batches = [batch for share in loaded for batch in share.micro_batches]
        if digests:
            pairs = [(piece, share.digests) for piece, share in zip(pieces, loaded, strict=True)]
            found.samples.append([row for piece, values in pairs for row in rows(piece, values)])
        weigh = Weigh(self.mean, self.workload.weight)
        by_items = self.mean.over == "items"
        weights = [
            float(piece.count) if not by_items or not piece.count else weigh(piece.counted(batch).targets)
            for piece, batch in zip(pieces, batches, strict=True)
        ]
        loss = MicroBatchLoss(self.workload.loss, 1, None, self.mean, is_padded=any(each.is_padded for each in pieces))
        found.totals.append(sum(weights) or 1.0)
        loss.begin([piece.count for piece in pieces], found.totals[-1], weights)
        scale, losses, replica = SCALE.get(self.recipe.precision, 1.0), [], 0
        first = last = summaries_raw(self.model)
        for piece, batch in zip(pieces, batches, strict=True):
            if piece.replica != replica:  # each begins with the buffers of the first, as DistributedDataParallel has it
                last = last if replica else summaries_raw(self.model)
                replica = piece.replica
                self._put(first)
            with held_still(self.still):
                self.still.batch(step, piece.samples)
                placed = self.placed(batch)
                value = loss(placed.call(self.model, **loss.told), placed.targets)
                (value * scale).backward()
            losses.append(float(value.detach()))
        if replica:
            self._put(last)
        return losses

    def _put(self, buffers: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.model.named_buffers():
                value.copy_(buffers[name])

    def _gradient(self, parameter: nn.Parameter) -> torch.Tensor:
        gradient = parameter.grad
        if gradient is None:
            return torch.zeros_like(parameter)
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        wire = WIRE.get(self.recipe.compression)
        gradient = gradient / SCALE.get(self.recipe.precision, 1.0)
        return gradient.to(wire).to(gradient.dtype) if wire is not None else gradient

    def _sketches(self, tensors: Sequence[torch.Tensor]) -> np.ndarray:
        found = []
        for each in tensors:
            own = local(each)
            found.append(sketch(own.detach(), (0,) * own.dim(), own.shape).cpu().numpy())
        return np.stack(found)

    def _rate(self, gradients: Sequence[torch.Tensor]) -> float:
        def length(tensors: Sequence[torch.Tensor]) -> float:
            squares = [float(torch.linalg.vector_norm(reals(each))) ** 2 for each in tensors]
            return float(np.sqrt(sum(squares)))

        whole = length(gradients)
        return STEP_LENGTH * max(length(self.parameters()), 1e-6) / whole if np.isfinite(whole) and whole > 0 else 0.0


def local(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that FSDP divided over one rank; any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def rows(piece: BatchPiece, digests: Sequence[int]) -> list[tuple[int, int]]:
    """Index and digest of every sample of a piece that counts."""
    return [(int(sample), digest) for sample, digest in zip(piece.samples[: piece.count], digests, strict=False)]


def summaries_raw(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the buffers."""
    return {name: value.detach().clone() for name, value in model.named_buffers()}


def summaries(model: nn.Module) -> dict[str, list[float]]:
    """Of each buffer the sum of its numbers and the sum of their squares."""
    found = {}
    for name, value in model.named_buffers():
        whole = reals(value)
        found[plain(name)] = [float(whole.sum()), float((whole * whole).sum())]
    return found


def buffer_distance(measured: Sequence[float], exact: Sequence[float]) -> float:
    """How far the sums that `summaries` makes of a buffer differ from another's, relative."""
    total, squares = exact
    own_total, own_squares = measured
    scale = max(float(np.sqrt(abs(squares))), 1e-6)
    return max(abs(own_total - total) / max(abs(total), scale), abs(own_squares - squares) / max(abs(squares), 1e-6))
