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

from hpc_accel.parallel.pieces import Piece, named_parameters
from hpc_accel.runtime.step import Stepper
from hpc_accel.study.optimizer import ELEMENTWISE, Optimizer
from hpc_accel.workloads.nested import HALVES
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
        """What plain torch makes of each piece's `_seen`."""
        factor = 1.0
        if self.spec.clip_grad_norm is not None:
            factor = min(1.0, self.spec.clip_grad_norm / (norm + 1e-6))
        copies: list[tuple[str, nn.Parameter]] = []
        places: dict[int, tuple[int, tuple[slice, ...]]] = {}
        for name, parameter in named_parameters(self.stepper.model):
            mine = [number for number, piece in enumerate(self.pieces) if piece.name == name]
            if self._kind(name) in ELEMENTWISE:
                for number in mine:
                    places[number] = len(copies), (slice(None),)
                    weights = self._seen(number, self._held(self.pieces[number]))
                    copies.append((name, self._copy(name, weights, self._seen(number, gradients[number]) * factor)))
                continue
            for number in mine:
                shape = gradients[number].shape
                box = zip(self.pieces[number].start, shape, strict=True)
                places[number] = len(copies), tuple(slice(first, first + size) for first, size in box)
            weights = self._whole(name, parameter, [self._held(piece) for piece in self.pieces])
            copies.append((name, self._copy(name, weights, self._whole(name, parameter, gradients) * factor)))
        optimizer = build_optimizer(self.grouping, copies)
        build_schedule(self.spec.schedule, optimizer)
        if optimizer is not None:
            optimizer.step()
        return [copies[at][1].detach()[box] for at, box in (places[number] for number in range(len(self.pieces)))]

    def _copy(self, name: str, weights: torch.Tensor, gradient: torch.Tensor) -> nn.Parameter:
        copy = nn.Parameter(weights.clone())
        gradient = gradient.to(weights.dtype)
        copy.grad = gradient.to_sparse(1) if self._kind(name) == "sparseadam" else gradient
        return copy

    def _kind(self, name: str) -> str:
        return self.grouping.parts[self.grouping.where[name][0]].name

    def _held(self, piece: Piece) -> torch.Tensor:
        return piece.local(piece.parameter).detach()

    def _seen(self, number: int, held: torch.Tensor) -> torch.Tensor:
        """What of this rank's piece is compared, as it is now."""
        return (held.reshape(-1)[:SAMPLED] if self._kind(self.pieces[number].name) in ELEMENTWISE else held).clone()

    def _whole(self, name: str, parameter: nn.Parameter, held: list[torch.Tensor]) -> torch.Tensor:
        """A whole parameter, or its gradient, put together from what each rank holds of every piece. Collective."""
        mine = [(piece, each) for piece, each in zip(self.pieces, held, strict=True) if piece.name == name]
        if not hasattr(parameter, "to_local") and self.stepper.place.layout.tp == 1:
            return mine[0][1]
        sent = [(piece.shape, piece.start, _sendable(each)) for piece, each in mine]
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        whole: torch.Tensor | None = None
        for shape, start, values in (each for part in self.stage.allgather(sent) for each in part):
            if whole is None:
                whole = torch.empty(shape, dtype=local.dtype, device=local.device)
            box = tuple(slice(first, first + size) for first, size in zip(start, values.shape, strict=True))
            whole[box] = torch.from_numpy(values).to(whole)
        assert whole is not None
        return whole


def _sendable(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype in HALVES else tensor).cpu().numpy()


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _squared(tensor: torch.Tensor) -> float:
    return float(_wide(tensor).abs().square().sum())
