"""Gradients clipped by the norm of the whole model's gradient, however the model is divided.

Every element counts once: what pipeline stages, tensor-parallel ranks and FSDP's shards hold is added up, what several
of them hold alike is counted on the first. Replicas have averaged their gradients, so each knows its own norm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist

from hpc_accel.parallel import planted
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.workloads.optimizers import Named

SMALLEST = 1e-6
"""Added to the norm, as torch.nn.utils.clip_grad_norm_ does."""


class GradientClip:
    """Clips the gradients of `named`, this rank's parameters. `shapes` are those of the whole model's, by name.

    `elsewhere` names those of which another stage has a copy that counts.
    """

    def __init__(
        self,
        max_norm: float,
        named: Sequence[Named],
        place: RankCoordinates,
        shapes: Mapping[str, Sequence[int]],
        device: torch.device,
        elsewhere: Collection[str] = (),
    ) -> None:
        self.max_norm = max_norm
        self.device = device
        shard = place.layout.shard == "full"
        self._parameters: list[tuple[torch.nn.Parameter, bool]] = []
        for name, parameter in named:
            is_cut = place.layout.tp > 1 and tuple(parameter.shape) != tuple(shapes[name])
            is_shard = hasattr(parameter, "to_local")
            first = place.is_first_holder if is_shard or not shard else place.dp_rank == 0
            counts = (is_cut or place.tp_rank == 0) and first
            self._parameters.append((parameter, counts and name not in elsewhere))
        dimensions = ("tp", "pp", *(("dp",) if shard else ()))
        self._groups = [group for name in dimensions if (group := place.group(name)) is not None]

    @torch.no_grad()
    def __call__(self) -> torch.Tensor:
        """Scale all gradients alike so that their norm is at most `max_norm`. The norm they had, on the device.

        Collective over the ranks that hold parts of the model, also of those that hold no parameter. One that is not
        finite leaves gradients that are not finite either.
        """
        held = [(_values(parameter), counts) for parameter, counts in self._parameters]
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for alike in _alike([values for values, counts in held if counts]):
            wide = torch.float64 if alike[0].dtype == torch.float64 else torch.float32
            norms = torch.stack(torch._foreach_norm(alike, 2, dtype=wide))
            total += norms.double().square().sum().to(self.device)
        if not planted.is_on("norm_per_rank"):
            for group in self._groups:
                dist.all_reduce(total, group=group)
        norm = total.sqrt()
        factor = (self.max_norm / (norm + SMALLEST)).clamp(max=1.0)
        for alike in _alike([values for values, _ in held]):
            torch._foreach_mul_(alike, factor.to(alike[0].device, alike[0].dtype))
        return norm


def _values(parameter: torch.nn.Parameter) -> torch.Tensor | None:
    """This rank's elements of a gradient, as real numbers that may be changed in place; None where there are none."""
    gradient = parameter.grad
    if gradient is None:
        return None
    if gradient.is_sparse:
        parameter.grad = gradient = gradient.coalesce()
        gradient = gradient._values()
    local: torch.Tensor = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    local = torch.view_as_real(local) if local.is_complex() else local
    return local if local.numel() else None


def _alike(tensors: list[torch.Tensor | None]) -> Iterator[list[torch.Tensor]]:
    """Those of one type on one device together, for which one kernel serves."""
    found: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for each in tensors:
        if each is not None:
            found.setdefault((each.dtype, each.device), []).append(each)
    yield from found.values()
