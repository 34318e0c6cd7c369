"""The steps of the reference, taken by the run's own ranks in the run's own layout.

The stepper is the one that is measured; only its optimizer is exchanged for plain SGD with the reference's rates, and
its randomness is held still. Every rank makes sketches of what it holds, which are added up on rank 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.parallel.pieces import Piece, pieces_of, shapes_of
from hpc_accel.runtime.make_stepper import make_stepper
from hpc_accel.runtime.precision import arithmetic
from hpc_accel.runtime.step import Stepper
from hpc_accel.runtime.still import Still
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Run
from hpc_accel.train.parity.engine import NUM_GRADIENTS, build_still, summaries
from hpc_accel.train.parity.optimizer_check import OptimizerCheck
from hpc_accel.train.parity.reference import Reference
from hpc_accel.train.parity.room import make_room
from hpc_accel.train.parity.sketch import WIDTH, reals, sketch
from hpc_accel.workloads.nested import raised
from hpc_accel.workloads.parameter_groups import group_parameters
from hpc_accel.workloads.tensor_plan import divisions, planned


@dataclass(kw_only=True)
class Measured:
    """What the ranks found together; whole on rank 0."""

    losses: list[float] = field(default_factory=list)
    gradients: list[np.ndarray] = field(default_factory=list)
    update: np.ndarray = field(default_factory=lambda: np.zeros((0, WIDTH)))
    copies_apart: list[list[float]] = field(default_factory=list)
    """Of each step and parameter: how far squared lengths differ between ranks that hold copies, relative."""
    updates_apart: list[float] = field(default_factory=list)
    """The same of the weights' change over all steps."""
    samples: list[list[tuple[int, int, int]]] = field(default_factory=list)
    """Of each step: rank, index and digest of each sample."""
    totals: list[list[float]] = field(default_factory=list)
    """Of each step: what each rank that computes a loss took for the weight of the global batch."""
    buffers: dict[str, list[float]] = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=dict)
    optimizer_apart: float | None = None
    clip_norms: tuple[float, float] | None = None
    """See OptimizerCheck."""
    drift: float | None = None
    """Under local SGD: distance of replicas from their mean just before the last average, relative to the change."""


def take_steps(
    run: Run,
    comm: Any,
    place: RankCoordinates,
    device: torch.device,
    *,
    recipe: Recipe,
    split: tuple[int, ...] | None,
    reference: Reference,
    raised: bool,
    num_steps: int | None = None,
    checks_optimizer: bool = True,
) -> Measured:
    """The steps in `recipe`, from weights of the beginning. Collective over all ranks.

    As many as the study compares, or `num_steps`, of which all gradients are kept.
    """
    workload = build_still(run, raised=raised, twin=reference.twin, double=raised and reference.is_double, filled=False)
    shapes, divided = (
        shapes_of(workload.model),
        divisions(workload.model, planned(workload.model, workload.tensor_plan)) if place.layout.tp > 1 else {},
    )
    grouping = group_parameters(run.workload.optimizer, workload.model)
    still = Still(run.seed)
    if not recipe.compile:  # a compiled graph cannot be watched; its attributes say what is dropped
        still.watch(workload.model)
    with arithmetic(recipe.precision):
        stepper = make_stepper(
            run, workload, place, device, recipe=recipe, split=split, mean=reference.mean, draws_data=True, digests=True
        )
        stepper.still = None if recipe.compile else still
        pieces = list(pieces_of(stepper.model, place, divided, shapes))
        steps = _Steps(comm, place, stepper, pieces, reference, raised=raised)
        found = steps.run(num_steps or run.measure.parity_steps, num_gradients=num_steps or NUM_GRADIENTS)
        if checks_optimizer and recipe.average_every == 1:  # replicas that train alone have gradients of their own
            check = OptimizerCheck(comm, stepper, pieces, grouping, run.workload.optimizer)
            checked = check(steps.gradients())
            found.optimizer_apart, found.clip_norms = checked.apart, checked.norms
    make_room(stepper, workload, device)
    return found


class _Steps:
    def __init__(
        self,
        comm: Any,
        place: RankCoordinates,
        stepper: Stepper,
        pieces: list[Piece],
        reference: Reference,
        *,
        raised: bool,
    ) -> None:
        self.comm, self.place, self.stepper, self.pieces = comm, place, stepper, pieces
        self.reference, self.raised = reference, raised
        self.rows = {name: index for index, name in enumerate(reference.names)}
        layout = place.layout
        self.replicas = comm.Split(place.pp_rank * layout.tp + place.tp_rank, place.dp_rank) if layout.dp > 1 else None
        self.slices = comm.Split(place.pp_rank * layout.dp + place.dp_rank, place.tp_rank) if layout.tp > 1 else None

    def run(self, num_steps: int, *, num_gradients: int) -> Measured:
        found, stepper = Measured(), self.stepper
        own = stepper.optimizer, stepper.clip, stepper.course
        stepper.clip = stepper.course = None
        parameters = stepper.model.parameters
        # One by one: a loop over many tensors at once takes no mixture of divided and whole ones.
        plain = torch.optim.SGD(parameters, lr=0.0, foreach=False) if parameters else None
        first = [piece.local(piece.parameter).detach().clone() for piece in self.pieces]
        for step in range(num_steps):
            gradients, loss = self._backward(found)
            found.losses.append(self._loss(loss))
            if step < num_gradients:
                found.gradients.append(self._added_up(gradients))
                found.copies_apart.append(self._apart(gradients))
            stepper.optimizer = plain
            for group in plain.param_groups if plain is not None else ():
                group["lr"] = self.reference.rates[min(step, len(self.reference.rates) - 1)]
            if stepper.recipe.average_every > 1 and stepper.num_steps % stepper.recipe.average_every == 0:
                found.drift = self._drifted_in(stepper.update, first)
            else:
                stepper.update()
        with torch.no_grad():
            last = [piece.local(piece.parameter).detach() for piece in self.pieces]
            changes = [b - a for a, b in zip(first, last, strict=True)]
            found.update = self._added_up(changes)
            found.updates_apart = self._apart(changes)
        found.buffers = self._buffers()
        found.stages = self._stages()
        stepper.optimizer, stepper.clip, stepper.course = own
        for comm in (self.replicas, self.slices):
            if comm is not None:
                comm.Free()
        return found

    def gradients(self) -> list[torch.Tensor]:
        """Those of one step more, of this rank's pieces, unscaled; the stepper has not updated."""
        return self._backward(Measured())[0]

    def _drifted_in(self, update: Callable[[], None], first: list[torch.Tensor]) -> float:
        """Make the last step of a period, and say how far replicas were apart before they were averaged."""
        average, stepper = type(self.stepper).average_replicas, self.stepper
        before: list[torch.Tensor] = []

        def watched() -> None:
            before.extend(piece.local(piece.parameter).detach().clone() for piece in self.pieces)
            average(stepper)

        stepper.average_replicas = watched  # type: ignore[method-assign]
        update()
        del stepper.average_replicas
        squares = np.zeros(2)
        for piece, own, start in zip(self.pieces, before, first, strict=True):
            if piece.is_cut or self.place.tp_rank == 0:
                mean = reals(piece.local(piece.parameter))
                squares += [float((each**2).sum()) for each in (reals(own) - mean, mean - reals(start))]
        apart, moved = self.comm.allreduce(squares)
        return float(math.sqrt(apart / moved)) if moved > 0 else 0.0

    def _backward(self, found: Measured) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Gradients of this rank's pieces, unscaled, and its weighted loss."""
        stepper, step = self.stepper, self.stepper.num_steps
        scale = stepper.loss.scale
        stepper.clock.begin()
        micro_batches = stepper.next_batch()
        count = stepper.sampler.valid(step)
        pairs = zip(stepper.sampler.samples(step)[:count], stepper.digests[:count], strict=True)
        mine = [(self.comm.Get_rank(), int(index), digest) for index, digest in pairs]
        found.samples.append([each for part in self.comm.gather(mine, root=0) or () for each in part])
        total = float(stepper.loss._total) if self.place.is_last_stage else None
        found.totals.append([each for each in self.comm.gather(total, root=0) or () if each is not None])
        if self.raised:
            micro_batches = [each.with_inputs(raised) for each in micro_batches]
        losses = stepper.backward(micro_batches)
        stepper.clock.finish()
        loss = torch.stack(losses).sum() / scale if losses else None
        return [self._gradient(piece) / scale for piece in self.pieces], loss

    def _gradient(self, piece: Piece) -> torch.Tensor:
        gradient = piece.parameter.grad
        if gradient is None:
            return torch.zeros_like(piece.local(piece.parameter))
        return piece.local(gradient.to_dense() if gradient.is_sparse else gradient).detach()

    def _loss(self, loss: torch.Tensor | None) -> float:
        """That of the global batch, on every rank: the mean over replicas, each of whose ranks with a loss knows it."""
        mine = [float(loss), 1.0] if loss is not None and self.place.tp_rank == 0 else [0.0, 0.0]
        value, count = self.comm.allreduce(np.array(mine))
        return float(value / count) if count else math.nan

    def _added_up(self, tensors: list[torch.Tensor]) -> np.ndarray:
        """[parameters, WIDTH] on rank 0: of every parameter each element once."""
        whole = np.zeros((len(self.rows), WIDTH))
        for piece, tensor in zip(self.pieces, tensors, strict=True):
            if piece.counts:
                whole[self.rows[piece.name]] += sketch(tensor, piece.start, piece.shape).cpu().numpy()
        result = np.zeros_like(whole)
        self.comm.Reduce(whole, result, root=0)
        return result

    def _apart(self, tensors: list[torch.Tensor]) -> list[float]:
        """How far copies differ: among replicas, and among tensor-parallel ranks where nothing is cut."""
        among = np.zeros(len(self.rows))
        lengths = np.zeros((2, len(self.rows)))  # by replica, by slice; 0 where there are no copies
        for piece, tensor in zip(self.pieces, tensors, strict=True):
            squared = float((reals(tensor) ** 2).sum())
            divided = hasattr(piece.parameter, "to_local")
            lengths[0, self.rows[piece.name]] += 0.0 if divided else squared
            lengths[1, self.rows[piece.name]] += 0.0 if piece.is_cut else squared
        for row, comm in zip(lengths, (self.replicas, self.slices), strict=True):
            if comm is not None:
                most, least = np.zeros_like(row), np.zeros_like(row)
                comm.Allreduce(row, most, op=_op("MAX"))
                comm.Allreduce(row, least, op=_op("MIN"))
                among = np.maximum(among, (most - least) / np.where(most > 0, most, 1.0))
        result = np.zeros_like(among)
        self.comm.Reduce(among, result, op=_op("MAX"), root=0)
        return [float(each) for each in result]

    def _buffers(self) -> dict[str, list[float]]:
        """Those of the first replica; the others follow it, or have their own, which is told."""
        mine: dict[str, list[float]] = {}
        if self.place.dp_rank == 0 and self.place.tp_rank == 0:
            for module in self.stepper.model.modules.values():
                mine |= summaries(module)
        return {name: value for part in self.comm.gather(mine, root=0) or () for name, value in part.items()}

    def _stages(self) -> dict[str, int]:
        mine = {piece.name: self.place.pp_rank for piece in self.pieces} if self.place.layout.pp > 1 else {}
        return {name: stage for part in self.comm.gather(mine, root=0) or () for name, stage in part.items()}


def _op(name: str) -> Any:
    from mpi4py import MPI

    return getattr(MPI, name)
