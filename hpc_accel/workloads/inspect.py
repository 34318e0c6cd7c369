"""Count what a model costs, layer by layer, by running two samples through it: FLOPs, parameters, activations.

FLOPs come from torch's FlopCounterMode, kept activations from autograd's saved-tensor hooks.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.facts import LayerFacts, ModelFacts
from hpc_accel.workloads.tensor_plan import planned_linears
from hpc_accel.workloads.workload import Workload

NUM_SAMPLES = 2
"""More than one, so that layers that normalise over the batch can run."""
MATMULS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "scaled_dot_product")


class OperationCounter(TorchDispatchMode):
    """Counts the operations torch dispatches, and among them the matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.num_operations = 0
        self.num_matmuls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.num_operations += 1
        self.num_matmuls += any(part in name for part in MATMULS)
        return func(*args, **(kwargs or {}))


def describe(workload: Workload) -> ModelFacts:
    """Facts of the model in the order data flows. Raises ConfigError if model, data and loss do not fit together."""
    samples = [workload.dataset[index % len(workload.dataset)] for index in range(NUM_SAMPLES)]  # type: ignore[arg-type]
    inputs, targets = default_collate(samples)
    plan = planned_linears(workload.model, workload.tensor_plan)
    sequential = isinstance(workload.model, nn.Sequential)
    layers = list(workload.model.named_children()) if sequential else [("model", workload.model)]
    facts = []
    states = inputs
    for name, layer in layers:
        prefix = f"{name}." if sequential else ""
        mine = {part: way for part, way in plan.items() if not sequential or part == name or part.startswith(prefix)}
        try:
            states, layer_facts = _run_layer(workload.model, name, layer, states, mine)
        except Exception as error:
            raise _misfit(f"layer {name} ({type(layer).__name__}) refuses its input", states, error) from error
        facts.append(layer_facts)
    try:
        loss = workload.loss(states, targets)
        loss.backward()
    except Exception as error:
        raise _misfit("the loss refuses outputs and targets", states, error) from error
    if loss.numel() != 1:
        raise ConfigError(f"a loss of shape {list(loss.shape)}", "the loss is one number", "take the mean")
    workload.model.zero_grad(set_to_none=True)
    return ModelFacts(
        layers=tuple(facts),
        num_samples=len(workload.dataset),  # type: ignore[arg-type]
        sample_bytes=inputs[0].numel() * inputs.element_size(),
        sequential=sequential,
        tp_units=_tp_units(workload.model, plan),
        max_tokens=inputs.shape[1] if any(hasattr(layer, "decode") for _, layer in layers) else None,
    )


def _run_layer(
    model: nn.Module, name: str, layer: nn.Module, states: torch.Tensor, plan: dict[str, Literal["columns", "rows"]]
) -> tuple[torch.Tensor, LayerFacts]:
    saved = 0
    parameters = {parameter.data_ptr() for parameter in layer.parameters()}
    cut_flops = 0.0
    allreduced = 0
    allreduces = sum(way == "rows" for way in plan.values())

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        if tensor.data_ptr() not in parameters:
            saved += tensor.numel()
        return tensor

    def count(way: str) -> Any:
        def hook(module: nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            nonlocal cut_flops, allreduced
            cut_flops += 2.0 * inputs[0].numel() * module.out_features
            allreduced += output.numel() if way == "rows" else 0

        return hook

    modules = dict(model.named_modules())
    handles = [modules[part].register_forward_hook(count(way)) for part, way in plan.items()]
    counter, operations = FlopCounterMode(display=False), OperationCounter()
    with counter, operations, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = layer(states)
    for handle in handles:
        handle.remove()
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"it returns {type(output).__name__}, not one tensor")
    return output, LayerFacts(
        name=f"{name} {type(layer).__name__}",
        num_parameters=sum(p.numel() for p in layer.parameters() if p.requires_grad),
        forward_flops_per_sample=counter.get_total_flops() / NUM_SAMPLES,
        output_elements_per_sample=output.numel() // NUM_SAMPLES,
        saved_elements_per_sample=saved // NUM_SAMPLES,
        tp_parameters=sum(modules[part].weight.numel() for part in plan),
        tp_flops_per_sample=cut_flops / NUM_SAMPLES,
        tp_allreduce_elements_per_sample=allreduced // NUM_SAMPLES,
        num_operations=operations.num_operations,
        num_matmuls=operations.num_matmuls,
        num_parameter_tensors=sum(p.requires_grad for p in layer.parameters()),
        tp_num_allreduces=allreduces,
    )


def _tp_units(model: nn.Module, plan: dict[str, Literal["columns", "rows"]]) -> int | None:
    """Equal shares that all cut dimensions have in common; attention modules count heads, not features."""
    if not plan:
        return None
    units = []
    for name, way in plan.items():
        linear = model.get_submodule(name)
        parent = model.get_submodule(name.rpartition(".")[0])
        features = linear.out_features if way == "columns" else linear.in_features
        assert isinstance(features, int)
        units.append(features // int(getattr(parent, "head_width", 1)))
    return math.gcd(*units)


def _misfit(value: str, states: torch.Tensor, error: Exception) -> ConfigError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ConfigError(
        f"{value} of shape {list(states.shape)}: {first}",
        "the model takes a batch of dataset inputs, the loss takes its outputs and the batch of targets",
        "run two samples through model and loss by hand",
    )
