"""The optimizer of a workload, checked on its model when a run is planned, and what it costs.

It is built on the model's own parameters, or their stand-ins where these have no values, and takes two steps on
stand-ins: small tensors of the same names, types and numbers of dimensions. So a wrong argument is known before any
rank starts, and what the optimizer keeps and computes is measured and not looked up.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from hpc_accel.errors import ConfigError
from hpc_accel.study.model_facts import OptimizerFacts
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.workloads.optimizers import NEEDS, Named, build_optimizer, parts_of
from hpc_accel.workloads.parameter_groups import Grouping, group_parameters
from hpc_accel.workloads.schedules import build_schedule

SIDE = 8
"""Stand-ins have at most so many elements along a dimension."""


def optimizer_facts(spec: Optimizer, model: nn.Module, sparse_gradients: Collection[str] = ()) -> OptimizerFacts:
    """What the optimizer costs on `model`, of which the parameters of those names have sparse gradients.

    Raises ConfigError for a class, an argument or a group that is wrong.
    """
    grouping = group_parameters(spec, model, all_match=True)
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    embeddings = [each for each in model.modules() if isinstance(each, nn.Embedding | nn.EmbeddingBag)]
    sparse = {id(each.weight) for each in embeddings if each.sparse}
    if not any(isinstance(each, FakeTensor) for _, each in named):
        build_optimizer(grouping, named)
    sparse |= {id(each) for name, each in named if name in sparse_gradients}
    stand_ins = [(name, _stand_in(each), each.numel(), id(each) in sparse) for name, each in named]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of schedulers and of complex numbers; they come again when it runs
        return _measured(spec, grouping, stand_ins)


def usual_facts(spec: Optimizer) -> OptimizerFacts:
    """The same of a single matrix, for a model that is known by its sizes only."""
    return optimizer_facts(spec.model_copy(update={"groups": ()}), nn.Linear(SIDE, SIDE, bias=False))


def _stand_in(parameter: nn.Parameter) -> nn.Parameter:
    shape = [min(side, SIDE) for side in parameter.shape]
    return nn.Parameter(torch.randn(shape).to(parameter.dtype))


def _measured(
    spec: Optimizer, grouping: Grouping, stand_ins: list[tuple[str, nn.Parameter, int, bool]]
) -> OptimizerFacts:
    named: list[Named] = [(name, each) for name, each, _, _ in stand_ins]
    optimizer = build_optimizer(grouping, named)
    if optimizer is None:
        return OptimizerFacts(state_bytes_per_parameter=0.0, operations_per_tensor=0.0, keeps_groups=True)
    build_schedule(spec.schedule, optimizer)
    num_groups = sum(len(part.groups) for part in grouping.parts)
    counting = _Operations()
    for _ in range(2):
        for _, each, _, is_sparse in stand_ins:
            gradient = torch.randn_like(each)
            each.grad = gradient.to_sparse(1) if is_sparse else gradient
        try:
            with counting:
                counting.count = 0  # of the last step: the first one makes the state
                optimizer.step()
        except Exception as error:
            raise _cannot_step(spec, error) from error
    state: dict[Any, dict[str, Any]] = {}
    for part in parts_of(optimizer):
        state |= part.state
    _check_kept(spec, state)
    kept, total = 0.0, 0
    for _, each, count, _ in stand_ins:
        own = [value for value in state.get(each, {}).values() if torch.is_tensor(value)]
        # What is smaller than the parameter (steps, rows, columns) vanishes beside it.
        kept += count * sum(value.element_size() for value in own if each.dim() and value.shape == each.shape)
        total += count
    return OptimizerFacts(
        state_bytes_per_parameter=kept / total,
        operations_per_tensor=counting.count / len(stand_ins),
        keeps_groups=len(optimizer.param_groups) == num_groups,
    )


def _check_kept(spec: Optimizer, state: dict[Any, dict[str, Any]]) -> None:
    """Raise ConfigError where a checkpoint could not hold the state."""
    for entries in state.values():
        for key, value in entries.items():
            if not torch.is_tensor(value) and not isinstance(value, int | float | str | None):
                raise ConfigError(
                    f"optimizer {', '.join(spec.names)}: state[{key!r}] is {type(value).__name__}",
                    "a checkpoint holds tensors, numbers and texts of each parameter's state",
                    "keep one of these for each parameter",
                )


class _Operations(TorchDispatchMode):
    """Counts torch operations that compute."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func.namespace == "profiler")
        return func(*args, **(kwargs or {}))


def _cannot_step(spec: Optimizer, error: Exception) -> ConfigError:
    return ConfigError(
        f"optimizer {', '.join(spec.names)}: a step raised {type(error).__name__}: {error}",
        "step() is called without arguments when every parameter has its gradient",
        next((NEEDS[name] for name in spec.names if name in NEEDS), "use an optimizer that needs nothing else"),
    )
