"""The loss scale of fp16: where gradients overflow on one rank, every rank skips the step and halves the scale.

Stages and shards overflow on some ranks only. Torch's ShardedGradScaler reduces what it found over the ranks while it
unscales, but a fused optimizer unscales by itself and would step, or not, by what its own rank found.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler


class Scaler(ShardedGradScaler):
    """ShardedGradScaler for fused optimizers, and for ranks that have nothing to train, as well."""

    def __init__(self, device: torch.device, init_scale: float, process_group: dist.ProcessGroup | None) -> None:
        super().__init__(device=device.type, init_scale=init_scale, process_group=process_group)
        self.scale(torch.zeros((), device=device))  # stages that compute no loss need the scale as well
        self._nothing = nn.Parameter(torch.zeros(1, device=device))

    def now(self) -> torch.Tensor:
        """The scale, on the device; later updates leave it as it is."""
        assert self._scale is not None
        return self._scale.clone()

    def step_together(
        self, optimizer: torch.optim.Optimizer | None, clip: Callable[[], None] | None = None, *, asks: bool = False
    ) -> bool:
        """Step with scaled gradients, or skip the step, and set the next scale. Collective.

        `clip` sees the gradients without their scale. With `asks` the answer is whether the step was taken, for which
        the host waits; without, it is always true.

        A rank without an optimizer takes part with a parameter that nothing depends on: the others' reductions wait
        for it, and it needs the same scale.
        """
        if optimizer is None:
            self._nothing.grad = torch.zeros_like(self._nothing)
            optimizer = torch.optim.SGD([self._nothing], lr=0.0)
        self.unscale_(optimizer)
        if clip is not None:
            clip()
        found = self._per_optimizer_states[id(optimizer)]["found_inf_per_device"]
        stepped = not asks or not any(float(each) for each in found.values())
        self.step(optimizer)
        self.update()
        return stepped

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide gradients by the scale, and learn whether any rank's overflowed."""
        super().unscale_(optimizer)
        found = self._per_optimizer_states[id(optimizer)]["found_inf_per_device"]
        for device, overflowed in found.items():
            found[device] = overflowed.reshape(())  # fused AdamW subtracts it from counters of no dimension
