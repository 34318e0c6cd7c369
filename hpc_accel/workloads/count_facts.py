"""What the planner must know of a model, counted by running two samples through it, layer by layer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from hpc_accel.errors import ConfigError
from hpc_accel.study.model_facts import LayerFacts, ModelFacts
from hpc_accel.workloads.alone import Talks, world_of_one
from hpc_accel.workloads.batch import Batch, different_shapes, own_loss
from hpc_accel.workloads.batch_norms import other_batch_norms_of
from hpc_accel.workloads.block_chain import BlockChain, find_chain
from hpc_accel.workloads.blocks import blocks_of, parameters_of_blocks, tied_blocks
from hpc_accel.workloads.chain import is_sequence, layers_of
from hpc_accel.workloads.control_flow import control_flow_of
from hpc_accel.workloads.counting import Counting, Counts
from hpc_accel.workloads.linears import units
from hpc_accel.workloads.nested import all_raised, num_bytes, shapes_of, tensors_of
from hpc_accel.workloads.sixteen_bits import autocast_problem
from hpc_accel.workloads.stage_facts import no_stages, result_of
from hpc_accel.workloads.stream import Stream, num_samples_of, spread_over
from hpc_accel.workloads.tensor_plan import Cut, divided_linears, half_divided, planned
from hpc_accel.workloads.tracer import why_not_traced
from hpc_accel.workloads.workload import Workload

NUM_SAMPLES = 2
"""More than one, so that layers that normalise over the batch can run."""
MOST_LOOKED_AT = 64
MOST_LOOKED_S = 1.0
Piece = tuple[str, nn.Module, Any, Counts]
"""A layer's name and module, what left it, and what it cost."""


def describe(workload: Workload, *, tries_cut: bool = False) -> ModelFacts:
    """Facts of the model in the order data flows; whether the tracer can cut it, if that `tries_cut`.

    Raises ConfigError if model, data and loss do not fit together.
    """
    parameters = workload.model.parameters()
    fake = next((parameter.fake_mode for parameter in parameters if isinstance(parameter, FakeTensor)), None)
    with fake or nullcontext(), world_of_one():
        facts = _describe(workload, with_values=fake is None)
        if facts.sequential or facts.no_stages or not tries_cut or facts.num_cuttable_layers < 2:
            return facts
        inputs = workload.batch_of(range(NUM_SAMPLES)).args
        return replace(facts, no_trace=why_not_traced(workload.model, inputs))


def _describe(workload: Workload, *, with_values: bool) -> ModelFacts:
    dataset: Any = workload.dataset
    first = spread_over(dataset, NUM_SAMPLES) * NUM_SAMPLES
    batch, model = workload.batch_of(first[:NUM_SAMPLES] if len(first) > NUM_SAMPLES else first), workload.model
    if workload.collate is None:
        _refuse_other_shapes(dataset)
    cuts = planned(model, workload.tensor_plan)
    linears = divided_linears(cuts)
    lengths = _sequence_lengths(model, cuts)
    in_order = is_sequence(model) and not batch.kwargs
    try:
        chain = (
            None
            if in_order
            else find_chain(model, lambda whole: workload.result_of(batch.call(whole)), workload.blocks)
        )
    except ConfigError:
        raise
    except Exception:  # told of in the pass that is counted
        chain = None
    with Counting(model, linears) as counting:
        if is_sequence(model) and in_order:
            pieces = list(_in_order(model, batch, counting))
        else:
            blocks = [name for name, _ in blocks_of(model)] if chain is None else list(chain.names)
            pieces = _in_blocks(model, batch, blocks, counting)
    outputs = pieces[-1][2]
    with Talks() as talks:
        sparse = _try_loss(workload, batch, outputs, with_values=with_values)
    flow = control_flow_of(workload)
    problem = no_stages(workload, batch, [output for _, _, output, _ in pieces], chained=chain is not None)
    inputs = batch.inputs
    return ModelFacts(
        layers=tuple(
            _facts(model, piece, parameters, cuts, linears)
            for piece, parameters in zip(pieces, _parameters(model, len(pieces), chain), strict=True)
        ),
        num_samples=num_samples_of(dataset),
        is_stream=isinstance(dataset, Stream),
        sample_bytes=num_bytes(inputs) // NUM_SAMPLES,
        sequential=in_order or chain is not None,
        in_blocks=chain is not None,
        no_stages=problem,
        result=result_of(workload, outputs),
        tp_units=_tp_units(model, linears),
        sequence_length=lengths[0] if lengths and "gather" in cuts.values() else None,
        tied_layers=_tied(model, len(pieces), chain),
        half_divided=half_divided(model, cuts),
        unused_parameters=flow.unused,
        varies=flow.varies,
        autocast_problem=autocast_problem(workload, batch) if with_values else "",
        sparse_gradients=sparse,
        complex_parameters=tuple(name for name, each in model.named_parameters() if each.is_complex()),
        has_channels=any(parameter.dim() in (4, 5) for parameter in model.parameters()),
        other_batch_norms=other_batch_norms_of(model),
        gathers_outputs=workload.gather_outputs,
        loss_talks=talks.operations,
        max_tokens=inputs[0].shape[1] if any(hasattr(layer, "decode") for layer in model.children()) else None,
    )


def _refuse_other_shapes(dataset: Any) -> None:
    """Raise ConfigError for samples that torch's default_collate cannot stack, as far as a second shows them."""
    numbers, until = spread_over(dataset, MOST_LOOKED_AT), time.perf_counter() + MOST_LOOKED_S
    first = shapes_of(dataset[0])
    # Neighbours, which may be sorted by length, and samples from everywhere.
    for index in dict.fromkeys([*range(len(numbers) // 2), *numbers]):
        shapes = shapes_of(dataset[index])
        if shapes != first:
            raise different_shapes(first, shapes, 0, index)
        if time.perf_counter() > until:
            return


def _in_order(model: nn.Sequential, batch: Batch, counting: Counting) -> Iterator[Piece]:
    """The children of a Sequential."""
    states = batch.args
    for name, layer in layers_of(model):
        try:
            output = layer(*states)
        except Exception as error:
            raise _misfit(f"layer {name} ({type(layer).__name__}) refuses its input", states, error) from error
        states = (output,)
        yield name, layer, output, counting.take()


def _in_blocks(model: nn.Module, batch: Batch, names: list[str], counting: Counting) -> list[Piece]:
    """The blocks of any other model, each with what runs after it; the first with what runs before it, too.

    The whole model is one piece where its blocks do not run once each, in the order they are registered: it can then
    not be cut between them.
    """
    found: list[tuple[str, nn.Module, Any]] = []
    counts: list[Counts] = []
    handles = []
    for name in names:
        block = model.get_submodule(name)

        def enter(_block: nn.Module, _inputs: Any) -> None:
            if found:
                counts.append(counting.take())

        def leave(block: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            found.append((name, block, output))

        handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    try:
        outputs = batch.call(model)
    except Exception as error:
        raise _misfit(f"the model ({type(model).__name__}) refuses its input", batch.inputs, error) from error
    finally:
        for handle in handles:
            handle.remove()
    counts.append(counting.take())
    in_order = [name for name, *_ in found] == names
    if not in_order or len(counts) != len(found):
        return [("model", model, outputs, sum(counts, Counts()))]
    last = len(found) - 1
    return [
        (name, block, outputs if index == last else output, count)
        for index, ((name, block, output), count) in enumerate(zip(found, counts, strict=True))
    ]


def _sequence_lengths(model: nn.Module, cuts: dict[str, Cut]) -> list[int]:
    """Filled, when the model runs, with the positions that leave the module where a sequence is split."""
    lengths: list[int] = []

    def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        lengths.append(output.shape[1])

    for name, way in cuts.items():
        if way == "split":
            model.get_submodule(name).register_forward_hook(keep)
    return lengths


def _try_loss(workload: Workload, batch: Batch, outputs: Any, *, with_values: bool) -> tuple[str, ...]:
    """The parameters whose gradients are sparse, where it can be differentiated."""
    sparse: tuple[str, ...] = ()
    try:
        loss = own_loss(outputs) if workload.loss is None else workload.loss(all_raised(outputs), batch.targets)
        if with_values:
            loss.backward()
            gradients = [(name, each.grad) for name, each in workload.model.named_parameters()]
            sparse = tuple(name for name, gradient in gradients if gradient is not None and gradient.is_sparse)
            workload.model.zero_grad(set_to_none=True)
    except ConfigError:
        raise
    except Exception as error:
        raise _misfit("the loss refuses outputs and targets", outputs, error) from error
    if loss.numel() != 1:
        raise ConfigError(f"a loss of shape {list(loss.shape)}", "the loss is one number", "take the mean")
    return sparse


def _tied(model: nn.Module, num_pieces: int, chain: BlockChain | None) -> tuple[tuple[int, int], ...]:
    if num_pieces == 1:
        return ()
    return tuple(tied_blocks(model) if chain is None else chain.tied)


def _parameters(model: nn.Module, num_pieces: int, chain: BlockChain | None) -> list[dict[str, nn.Parameter]]:
    """Of each piece; of the only one all."""
    if chain is not None:
        return chain.parameters(model)
    if num_pieces == 1:
        return [{name: each for name, each in model.named_parameters() if each.requires_grad}]
    return parameters_of_blocks(model)


def _facts(
    model: nn.Module,
    piece: Piece,
    parameters: Mapping[str, nn.Parameter],
    cuts: Mapping[str, Cut],
    linears: Mapping[str, Literal["columns", "rows"]],
) -> LayerFacts:
    name, layer, output, counts = piece
    inside = [part for part in cuts if layer is model or any(each.startswith(f"{part}.") for each in parameters)]
    divided = [part for part in inside if cuts[part] not in ("split", "sequence", "partial")]
    return LayerFacts(
        name=f"{name} {type(layer).__name__}",
        num_parameters=sum(p.numel() for p in parameters.values()),
        forward_flops_per_sample=counts.flops / NUM_SAMPLES,
        output_elements_per_sample=sum(each.numel() for each in tensors_of(output)) // NUM_SAMPLES,
        saved_elements_per_sample=counts.saved_elements // NUM_SAMPLES,
        tp_parameters=sum(p.numel() for part in divided for p in model.get_submodule(part).parameters() if p.dim() > 1),
        tp_flops_per_sample=counts.cut_flops / NUM_SAMPLES,
        tp_allreduce_elements_per_sample=counts.allreduced_elements // NUM_SAMPLES,
        num_operations=counts.num_operations,
        num_matmuls=counts.num_matmuls,
        num_batch_norms=counts.num_batch_norms,
        batch_norm_channels=counts.batch_norm_channels,
        num_parameter_tensors=len(parameters),
        tp_num_allreduces=sum(linears.get(part) == "rows" for part in inside),
    )


def _tp_units(model: nn.Module, plan: dict[str, Literal["columns", "rows"]]) -> int | None:
    """Equal shares that all cut dimensions have in common; attention modules count heads, not features."""
    if not plan:
        return None
    found: list[int] = []
    for name, way in plan.items():
        linear = model.get_submodule(name)
        parent = model.get_submodule(name.rpartition(".")[0])
        found += units(linear, way, int(getattr(parent, "head_width", 1)))
    return math.gcd(*found)


def _misfit(value: str, states: Any, error: Exception) -> ConfigError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    shapes = " and ".join(str(list(part.shape)) for part in tensors_of(states))
    return ConfigError(
        f"{value} of shape {shapes}: {first}",
        "the model takes a batch of dataset inputs, the loss takes its outputs and the batch of targets",
        "run two samples through model and loss by hand",
    )
