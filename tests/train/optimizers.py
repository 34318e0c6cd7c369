"""Optimizers of a user's own, and a model in two types, for tests that name them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.workloads.workload import Workload


class Sign(torch.optim.Optimizer):
    """Moves each element by its gradient's sign, averaged over the steps (Lion's kind)."""

    def __init__(self, params: Any, lr: float = 1e-3, beta: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"], state["count"] = torch.zeros_like(parameter), 0
                state["count"] += 1
                state["average"].lerp_(parameter.grad, 1 - group["beta"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(state["average"].sign(), alpha=-group["lr"])


class Layerwise(torch.optim.Optimizer):
    """Moves a parameter by its gradient's direction times its own norm (LARS's kind): wrong on parts of a parameter."""

    def __init__(self, params: Any, lr: float = 1e-2) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    trust = parameter.norm() / (parameter.grad.norm() + 1e-9)
                    parameter.sub_(parameter.grad * (group["lr"] * trust))


def by_name(named: Any, lr: float = 1e-3, slow: str = "") -> torch.optim.Optimizer:
    """AdamW whose groups are made here, from names: what `slow` begins has a tenth of the rate."""
    groups: list[dict[str, Any]] = [
        {"params": [each for each in named if each[0].startswith(slow)], "lr": lr / 10},
        {"params": [each for each in named if not each[0].startswith(slow)]},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr)


def halves(optimizer: torch.optim.Optimizer, every: int = 1) -> torch.optim.lr_scheduler.LRScheduler:
    """The rate halved every so many steps."""
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=every, gamma=0.5)


def build_two_types() -> Workload:
    """Layers in fp32 around one in bf16."""

    class Narrow(nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return super().forward(states.to(self.weight.dtype)).float()

    model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), Narrow(16, 16).bfloat16(), nn.Tanh(), nn.Linear(16, 1))
    data = torch.randn(64, 6)
    return Workload(model=model, loss=nn.functional.mse_loss, dataset=TensorDataset(data, data.sum(1, keepdim=True)))
