"""Count what a model costs, layer by layer, by running two samples through it: FLOPs, parameters, activations.

FLOPs come from torch's FlopCounterMode, kept activations from autograd's saved-tensor hooks. A model built on tensors
without values (torch's FakeTensorMode, see planned.py) counts the same, but its backward pass is not tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.chain import as_inputs
from hpc_accel.workloads.facts import LayerFacts, ModelFacts
from hpc_accel.workloads.tensor_plan import Cut, planned, planned_linears
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
        self.num_operations += func.namespace != "prim"  # a tensor without values is asked for its device that way
        self.num_matmuls += any(part in name for part in MATMULS)
        return func(*args, **(kwargs or {}))


def describe(workload: Workload) -> ModelFacts:
    """Facts of the model in the order data flows. Raises ConfigError if model, data and loss do not fit together."""
    parameters = workload.model.parameters()
    fake = next((parameter.fake_mode for parameter in parameters if isinstance(parameter, FakeTensor)), None)
    with fake or nullcontext():
        return _describe(workload, with_values=fake is None)


def _describe(workload: Workload, *, with_values: bool) -> ModelFacts:
    samples = [workload.dataset[index % len(workload.dataset)] for index in range(NUM_SAMPLES)]  # type: ignore[arg-type]
    batch, targets = default_collate(samples)
    inputs = as_inputs(batch)
    cuts = planned(workload.model, workload.tensor_plan)
    plan = planned_linears(workload.model, workload.tensor_plan)
    lengths = _sequence_lengths(workload.model, cuts)
    sequential = isinstance(workload.model, nn.Sequential)
    layers = list(workload.model.named_children()) if sequential else [("model", workload.model)]
    facts = []
    states = inputs
    for name, layer in layers:
        prefix = f"{name}." if sequential else ""
        inside = [part for part in cuts if not sequential or part == name or part.startswith(prefix)]
        mine = {part: plan[part] for part in inside if part in plan}
        divided = [part for part in inside if cuts[part] not in ("split", "sequence")]
        try:
            output, layer_facts = _run_layer(workload.model, name, layer, states, mine, divided)
        except Exception as error:
            raise _misfit(f"layer {name} ({type(layer).__name__}) refuses its input", states, error) from error
        states = (output,)
        facts.append(layer_facts)
    _try_loss(workload, states[0], targets, with_values=with_values)
    return ModelFacts(
        layers=tuple(facts),
        num_samples=len(workload.dataset),  # type: ignore[arg-type]
        sample_bytes=sum(part[0].numel() * part.element_size() for part in inputs),
        sequential=sequential,
        tp_units=_tp_units(workload.model, plan),
        sequence_length=lengths[0] if lengths and "gather" in cuts.values() else None,
    )


def _sequence_lengths(model: nn.Module, cuts: dict[str, Cut]) -> list[int]:
    """Filled, when the model runs, with the positions that leave the module where a sequence is split."""
    lengths: list[int] = []

    def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        lengths.append(output.shape[1])

    for name, way in cuts.items():
        if way == "split":
            model.get_submodule(name).register_forward_hook(keep)
    return lengths


def _try_loss(workload: Workload, outputs: torch.Tensor, targets: torch.Tensor, *, with_values: bool) -> None:
    try:
        loss = workload.loss(outputs, targets)
        if with_values:
            loss.backward()
            workload.model.zero_grad(set_to_none=True)
    except Exception as error:
        raise _misfit("the loss refuses outputs and targets", (outputs,), error) from error
    if loss.numel() != 1:
        raise ConfigError(f"a loss of shape {list(loss.shape)}", "the loss is one number", "take the mean")


def _run_layer(
    model: nn.Module,
    name: str,
    layer: nn.Module,
    states: Sequence[torch.Tensor],
    plan: dict[str, Literal["columns", "rows"]],
    divided: Sequence[str],
) -> tuple[torch.Tensor, LayerFacts]:
    saved = 0
    parameters = {_storage(parameter) for parameter in layer.parameters()}
    cut_flops = 0.0
    allreduced = 0
    allreduces = sum(way == "rows" for way in plan.values())

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        if _storage(tensor) not in parameters:
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
        output = layer(*states)
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
        tp_parameters=sum(modules[part].weight.numel() for part in divided),
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


def _storage(tensor: torch.Tensor) -> int:
    """What tensors that share memory have in common, also where there is none behind them."""
    return tensor.untyped_storage()._cdata


def _misfit(value: str, states: Sequence[torch.Tensor], error: Exception) -> ConfigError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    shapes = " and ".join(str(list(part.shape)) for part in states)
    return ConfigError(
        f"{value} of shape {shapes}: {first}",
        "the model takes a batch of dataset inputs, the loss takes its outputs and the batch of targets",
        "run two samples through model and loss by hand",
    )
