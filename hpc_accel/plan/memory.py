"""Peak memory of the fullest rank: weights, gradients, optimizer state, and the activations its schedule keeps.

Under-prediction is what hurts (a job that dies), so what is uncertain is counted: the largest layer's output and its
gradient, one bucket of gradients in transit, and on a CPU the process itself. Where replicas shard parameters, the
layer computing and the next one are whole, with stages the rank's whole part, because torch gathers a stage at once;
and gradients are whole until the last micro-batch, before which they are not reduced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from hpc_accel.plan.compute import divided_parameters, kept_elements, product_elements
from hpc_accel.plan.schedules import in_flight
from hpc_accel.plan.software import Software
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recompute
from hpc_accel.workloads.facts import LayerFacts, ModelFacts


@dataclass(frozen=True, kw_only=True)
class RankSize:
    """What one rank holds. Element counts are per sample of a micro-batch."""

    parameters: float
    largest_parameters: float
    """Of one layer."""
    kept: float
    """From forward to backward, in all stages of the rank."""
    kept_of_stage: float
    """The same of the one that keeps most."""
    whole: float
    """Of the layer with most while it computes, nothing of it given up."""
    recomputed: float
    """What one layer at most has of that only while its backward runs."""
    largest_output: float


def rank_sizes(
    facts: ModelFacts, split: Sequence[int], layout: Layout, recompute: Recompute = "none"
) -> dict[RankSize, int]:
    """The ranks' sizes, which no batch changes, each with the first rank that has it.

    Of equal ranks the first holds most micro-batches, so only that one can be the fullest.
    """
    stages = [facts.layers[start:end] for start, end in pairwise(accumulate(split, initial=0))]
    sizes: dict[RankSize, int] = {}
    for rank, held in enumerate(layout.stages):
        sizes.setdefault(_size([stages[stage] for stage in held], layout, recompute), rank)
    return sizes


def peak_memory_bytes(
    sizes: Mapping[RankSize, int], layout: Layout, software: Software, *, sample_bytes: int, process_bytes: int = 0
) -> int:
    """Bytes of the rank that needs most; of a GPU's memory where there is one."""
    peak = max(
        state_bytes(size, layout, software) + activation_bytes(size, rank, layout, software)
        for size, rank in sizes.items()
    )
    batch = layout.micro_batch_size * layout.accumulation_steps * sample_bytes
    return int(peak + batch + process_bytes)


def state_bytes(size: RankSize, layout: Layout, software: Software) -> float:
    """Weights, gradients, optimizer state, and what of them is in transit between replicas."""
    weights, gradients, state = software.parameter_bytes, software.gradient_bytes, software.optimizer_state_bytes
    if layout.shard == "full":
        sharded = 0.0 if software.offload == "parameters" else (weights + gradients + state) / layout.dp
        gathered = size.parameters if layout.pp > 1 else min(size.parameters, 2 * size.largest_parameters)
        reduced = size.parameters if layout.accumulation_steps > 1 else size.largest_parameters
        return size.parameters * sharded + gathered * software.gather_bytes + reduced * gradients
    if layout.shard == "optimizer":
        state /= layout.dp
    transit = min(size.parameters * gradients, software.gradient_bucket_bytes) if layout.dp > 1 else 0.0
    if software.powersgd_rank is not None:
        transit += size.parameters * gradients  # the error that is added to the next step's gradient
    return size.parameters * (weights + gradients + state) + transit


def activation_bytes(size: RankSize, rank: int, layout: Layout, software: Software) -> float:
    """What one rank keeps for backward at its fullest moment, and the tensors it is working on."""
    num = layout.accumulation_steps
    if layout.pp > 1:
        held = in_flight(layout.schedule or "gpipe", layout.pp, layout.stages_per_rank, num, rank)
        kept = min(held * size.kept_of_stage, num * size.kept)
    else:  # Each micro-batch's backward runs before the next one's forward.
        kept = size.kept
    if software.offload == "activations":
        kept = 2 * size.whole  # one layer on its way, one at work
    else:
        kept += size.recomputed  # one layer at a time is whole again during backward
    return software.activation_bytes * layout.micro_batch_size * (kept + 2 * size.largest_output)


def _size(stages: Sequence[Sequence[LayerFacts]], layout: Layout, recompute: Recompute) -> RankSize:
    layers = [layer for stage in stages for layer in stage]
    parameters = [divided_parameters(layer, layout.tp) for layer in layers]
    kept = [sum(_kept(layer, layout, recompute) for layer in stage) for stage in stages]
    return RankSize(
        parameters=sum(parameters),
        largest_parameters=max(parameters),
        kept=sum(kept),
        kept_of_stage=max(kept),
        whole=max(_kept(layer, layout, "none") for layer in layers),
        recomputed=max(_kept(layer, layout, "none") - _kept(layer, layout, recompute) for layer in layers),
        largest_output=max(layer.output_elements_per_sample for layer in layers),
    )


def _kept(layer: LayerFacts, layout: Layout, recompute: Recompute) -> float:
    """Elements per sample a layer keeps: all, its matrix products' results and its input, or its input alone."""
    everything = kept_elements(layer, layout.tp, layout.sequence_parallel)
    if recompute == "none":
        return everything
    entering = float(layer.output_elements_per_sample)  # its input is the output of a layer like it
    if recompute == "full":
        return entering
    return min(everything, entering + product_elements(layer, layout.tp))
