"""The run's optimizer beside plain torch's: one step on the run's own gradient, clipped by a norm that is found anew.

Optimizers that treat each element by itself are checked on some elements of each parameter; of all others, the user's
own among them, the plain one gets whole parameters, put together from what the ranks hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hpc_accel.parallel.pieces import Piece
from hpc_accel.runtime.loss import HALVES
from hpc_accel.runtime.step import Stepper
from hpc_accel.study.optimizer import ELEMENTWISE, Optimizer
from hpc_accel.workloads.optimizers import build_optimizer
from hpc_accel.workloads.parameter_groups import Grouping
from hpc_accel.workloads.schedules import build_schedule

SAMPLED = 1024
"""Elements of each parameter on which an optimizer is checked that treats each by itself."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """`apart`: how far the run's update is from plain torch's, relative to it; None where that cannot be told.

    `norms`: what the run clipped by, where that is farthest off, and the norm of the whole gradient; None unclipped.
    """

    apart: float | None
    norms: tuple[float, float] | None


class OptimizerCheck:
    """One check, on ranks that have the gradients of `stepper.backward` and have not updated. Collective."""

    def __init__(self, comm: Any, stepper: Stepper, pieces: list[Piece], grouping: Grouping, spec: Optimizer) -> None:
        self.comm, self.stepper, self.pieces = comm, stepper, pieces
        self.grouping, self.spec = grouping, spec
        self.names = [grouping.parts[grouping.where[piece.name][0]].name for piece in pieces]
        self.stage = comm.Split(stepper.place.pp_rank, comm.Get_rank())
        """Ranks that hold parts of the same parameters, or copies."""

    def __call__(self, gradients: list[torch.Tensor]) -> Checked:
        """`gradients` are unscaled and of this rank's pieces. The stepper's step is taken."""
        finite = all(bool(torch.isfinite(each).all()) for each in gradients)
        finite = bool(self.comm.allreduce(int(not finite)) == 0)
        norm = self._norm(gradients)
        before = [self._seen(number, self._held(piece)) for number, piece in enumerate(self.pieces)]
        wanted = self._plain_update(gradients, norm) if finite else before
        self.stepper.update()
        now = [self._seen(number, self._held(piece)) for number, piece in enumerate(self.pieces)]
        apart = moved = rounding = 0.0
        for old, new, plain in zip(before, now, wanted, strict=True):
            apart += _squared(_wide(new) - _wide(plain))
            moved += _squared(_wide(plain) - _wide(old))
            rounding += _squared(_wide(old) * torch.finfo(old.dtype).eps)
        apart, moved, rounding = self.comm.allreduce(np.array([apart, moved, rounding]))
        norms = self._norms_seen(norm)
        self.stage.Free()
        if not finite:
            return Checked(apart=None, norms=None)
        far = math.sqrt(max(0.0, apart - 16 * rounding)) / math.sqrt(moved) if moved > 0 else 0.0
        return Checked(apart=far, norms=norms)

    def _norm(self, gradients: list[torch.Tensor]) -> float:
        """Of the whole model's gradient, each element once."""
        pairs = zip(self.pieces, gradients, strict=True)
        return math.sqrt(self.comm.allreduce(sum(_squared(each) for piece, each in pairs if piece.counts)))

    def _norms_seen(self, norm: float) -> tuple[float, float] | None:
        if self.stepper.clip is None:
            return None
        seen = self.comm.allgather(math.nan if self.stepper.grad_norm is None else float(self.stepper.grad_norm))
        return max(seen, key=lambda each: abs(each - norm) if math.isfinite(each) else math.inf), norm

    def _plain_update(self, gradients: list[torch.Tensor], norm: float) -> list[torch.Tensor]:
        factor = 1.0
        if self.spec.clip_grad_norm is not None:
            factor = min(1.0, self.spec.clip_grad_norm / (norm + 1e-6))
        copies = []
        for number, (piece, gradient) in enumerate(zip(self.pieces, gradients, strict=True)):
            held = self._held(piece)
            copy = nn.Parameter(self._whole(number, held).detach().clone())
            copy.grad = (self._whole(number, gradient) * factor).to(copy.dtype)
            if self.names[number] == "sparseadam":
                copy.grad = copy.grad.to_sparse(1)
            copies.append(copy)
        optimizer = build_optimizer(self.grouping, zip((each.name for each in self.pieces), copies, strict=True))
        build_schedule(self.spec.schedule, optimizer)
        if optimizer is not None:
            optimizer.step()
        return [self._part(number, copy.detach()) for number, copy in enumerate(copies)]

    def _held(self, piece: Piece) -> torch.Tensor:
        return piece.local(piece.parameter).detach()

    def _samples(self, number: int) -> bool:
        return self.names[number] in ELEMENTWISE

    def _seen(self, number: int, held: torch.Tensor) -> torch.Tensor:
        """What of this rank's part is compared, as it is now."""
        return (held.reshape(-1)[:SAMPLED] if self._samples(number) else held).clone()

    def _whole(self, number: int, held: torch.Tensor) -> torch.Tensor:
        """What the plain optimizer gets: the sample, or the whole parameter."""
        piece = self.pieces[number]
        if self._samples(number):
            return held.reshape(-1)[:SAMPLED]
        if not piece.is_cut and not hasattr(piece.parameter, "to_local"):
            return held
        whole = torch.empty(piece.shape, dtype=held.dtype, device=held.device)
        sent = held.float() if held.dtype in HALVES else held
        for start, values in self.stage.allgather((piece.start, sent.cpu().numpy())):
            box = tuple(slice(first, first + size) for first, size in zip(start, values.shape, strict=True))
            whole[box] = torch.from_numpy(values).to(whole)
        return whole

    def _part(self, number: int, updated: torch.Tensor) -> torch.Tensor:
        """What `_seen` is of the updated parameter."""
        piece = self.pieces[number]
        held = self._held(piece)
        if self._samples(number) or updated.shape == held.shape:
            return updated
        box = tuple(slice(first, first + size) for first, size in zip(piece.start, held.shape, strict=True))
        return updated[box]


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _squared(tensor: torch.Tensor) -> float:
    return float(_wide(tensor).abs().square().sum())
