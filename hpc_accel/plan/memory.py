"""Peak memory of the fullest rank: weights, gradients, optimizer state, and the activations its schedule keeps.

Under-prediction is what hurts (a job that dies), so what is uncertain is counted: the largest layer's output and its
gradient, one bucket of gradients in transit, and on a CPU the process itself. Where replicas shard parameters, the
layer computing and the next one are whole, with stages the rank's whole part, because torch gathers a stage at once;
and gradients are whole until the last micro-batch, before which they are not reduced.

These are tensors. What else lies in a GPU's memory is left free by `device_limit_bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from hpc_accel.plan.compute import divided_parameters, kept_elements, product_elements
from hpc_accel.plan.schedules import in_flight
from hpc_accel.plan.software import Software
from hpc_accel.probe.hardware import NodeKind
from hpc_accel.study.layout import Layout
from hpc_accel.study.model_facts import LayerFacts, ModelFacts
from hpc_accel.study.recipe import Recompute
from hpc_accel.study.run import Resources

USABLE_SHARE = 0.9
"""Of a GPU's memory: the rest is for what torch's allocator holds in pieces too small to use, cuBLAS's workspaces (32
MiB a stream on Hopper) and the buffers of NCCL (0.2 to 2 GB) or of copies to the host."""
CONTEXT_BYTES = 600_000_000
"""What a process takes of a GPU before it has a tensor: a CUDA context with torch's kernels, 0.4 to 0.6 GB."""


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
    kept_once: float
    """Of layers whose backward follows their forward at once, as a loss does: of one micro-batch, not in `kept`."""
    whole: float
    """Of the layer with most while it computes, nothing of it given up."""
    recomputed: float
    """What one layer at most has of that only while its backward runs."""
    largest_output: float
    largest_boundary: float
    """Of the layers that are not `kept_once`."""


def rank_sizes(
    facts: ModelFacts, split: Sequence[int], layout: Layout, recompute: Recompute = "none", only: int | None = None
) -> dict[RankSize, int]:
    """The ranks' sizes, which no batch changes, each with the first rank that has it; or of one rank alone.

    Of equal ranks the first holds most micro-batches, so only that one can be the fullest.
    """
    stages = [facts.layers[start:end] for start, end in pairwise(accumulate(split, initial=0))]
    sizes: dict[RankSize, int] = {}
    for rank, held in enumerate(layout.stages):
        if only is not None and rank != only:
            continue
        sizes.setdefault(_size([stages[stage] for stage in held], layout, recompute), rank)
    return sizes


def peak_memory_bytes(
    sizes: Mapping[RankSize, int],
    layout: Layout,
    software: Software,
    *,
    sample_bytes: int,
    process_bytes: int = 0,
    on_gpu: bool = False,
) -> int:
    """Bytes of the rank that needs most; of a GPU's memory where there is one."""
    peak = max(sum(rank_parts(size, rank, layout, software, on_gpu=on_gpu).values()) for size, rank in sizes.items())
    batch = layout.micro_batch_size * layout.accumulation_steps * sample_bytes
    return int(peak + batch + process_bytes)


def rank_parts(size: RankSize, rank: int, layout: Layout, software: Software, *, on_gpu: bool) -> dict[str, float]:
    """Bytes of one rank by what they are, at its fullest moment.

    An optimizer step comes when activations are gone, so what it needs for a moment counts instead of them.
    """
    computing = {
        "activations": activation_bytes(size, rank, layout, software),
        "weights cast to 16 bits": cast_bytes(size, rank, layout, software),
    }
    updating = {"temporary tensors of the optimizer": update_bytes(size, layout, software) if on_gpu else 0.0}
    return {
        "weights, gradients, optimizer": state_bytes(size, layout, software),
        "tensors not dropped yet": _lingering_bytes(size, layout, software),
        **max(computing, updating, key=lambda parts: sum(parts.values())),
        "workspaces": software.workspace_bytes,
    }


def state_bytes(size: RankSize, layout: Layout, software: Software, *, at_rest: bool = False) -> float:
    """Weights, gradients, optimizer state, and, unless `at_rest`, what of them is in transit between replicas."""
    weights, gradients, state = software.parameter_bytes, software.gradient_bytes, software.optimizer_state_bytes
    if layout.shard == "full":
        sharded = 0.0 if software.offload == "parameters" else (weights + gradients + state) / layout.shard_group
        gathered = size.parameters if layout.pp > 1 else min(size.parameters, 2 * size.largest_parameters)
        reduced = size.parameters if layout.accumulation_steps > 1 else size.largest_parameters
        return size.parameters * sharded + gathered * software.gather_bytes + reduced * gradients
    if layout.shard == "optimizer":
        state /= layout.dp
    moving = layout.dp > 1 and not at_rest and not software.reduces_in_place
    transit = min(size.parameters * gradients, software.gradient_bucket_bytes) if moving else 0.0
    if software.powersgd_rank is not None:
        transit += size.parameters * gradients  # the error that is added to the next step's gradient
    return size.parameters * (weights + gradients + state) + transit


def device_limit_bytes(kind: NodeKind, resources: Resources) -> int | None:
    """How much the tensors of one rank may take of its GPU; None where nobody said how large it is."""
    if kind.device_memory_bytes is None:
        return None
    return int(USABLE_SHARE * kind.device_memory_bytes / ranks_per_gpu(kind, resources)) - CONTEXT_BYTES


def ranks_per_gpu(kind: NodeKind, resources: Resources) -> int:
    """1 where GPUs are asked for; under `device: cuda` without, ranks go round those of the node."""
    if resources.gpus_per_node or not kind.devices_per_node:
        return 1
    return -(-resources.ranks_per_node // kind.devices_per_node)


def update_bytes(size: RankSize, layout: Layout, software: Software) -> float:
    """What an optimizer step of all tensors at once has of temporary tensors."""
    if software.offload == "parameters":
        return 0.0
    divided = layout.dp if layout.shard == "optimizer" else layout.shard_group
    return size.parameters * software.optimizer_temporary_bytes / divided


def cast_bytes(size: RankSize, rank: int, layout: Layout, software: Software) -> float:
    """Weights as they were cast for products: each micro-batch in flight keeps its own until its backward.

    Not counted where they lie in the room of gradients that are not there yet: one micro-batch, one replica. FSDP2
    gathers weights cast already.
    """
    num = layout.accumulation_steps
    if layout.shard == "full" or (num == 1 and layout.dp == 1):
        return 0.0
    if software.recompute != "none":  # cast again with the layer that is computed again
        return size.largest_parameters * software.cast_weight_bytes
    held = 1.0
    if layout.pp > 1:
        # Counted in passes through any stage of the rank, which are about equally large.
        passes = in_flight(layout.schedule or "gpipe", layout.pp, layout.stages_per_rank, num, rank)
        held = min(passes / layout.stages_per_rank, num)
    return held * size.parameters * software.cast_weight_bytes


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
    once = num if layout.schedule in ("gpipe", "looped_bfs") else 1
    kept += once * size.kept_once + 2 * size.largest_output
    return software.activation_bytes * layout.micro_batch_size * kept


def held_bytes(size: RankSize, layout: Layout, software: Software) -> float:
    """Between steps: the state, workspaces, and the last tensors that nobody has dropped yet."""
    lingering = _lingering_bytes(size, layout, software)
    return state_bytes(size, layout, software, at_rest=True) + software.workspace_bytes + lingering


def _lingering_bytes(size: RankSize, layout: Layout, software: Software) -> float:
    each = software.activation_bytes * layout.micro_batch_size * size.largest_boundary
    return (software.lingering_tensors + software.lingering_divided / layout.tp) * each


def _size(stages: Sequence[Sequence[LayerFacts]], layout: Layout, recompute: Recompute) -> RankSize:
    layers = [layer for stage in stages for layer in stage]
    parameters = [divided_parameters(layer, layout.tp) for layer in layers]
    kept = [sum(_kept(layer, layout, recompute) for layer in stage if not _held_once(layer)) for stage in stages]
    boundaries = [layer.output_elements_per_sample for layer in layers if not _held_once(layer)]
    return RankSize(
        parameters=sum(parameters),
        largest_parameters=max(parameters),
        kept=sum(kept),
        kept_of_stage=max(kept),
        kept_once=sum(_kept(layer, layout, "none") for layer in layers if _held_once(layer)),
        whole=max(_kept(layer, layout, "none") for layer in layers if len(layers) == 1 or not _held_once(layer)),
        recomputed=max(_kept(layer, layout, "none") - _kept(layer, layout, recompute) for layer in layers),
        largest_output=max(layer.output_elements_per_sample for layer in layers),
        largest_boundary=max(boundaries, default=0),
    )


def _held_once(layer: LayerFacts) -> bool:
    return layer.shape is not None and layer.shape.held_once


def _kept(layer: LayerFacts, layout: Layout, recompute: Recompute) -> float:
    """Elements per sample a layer keeps: all, its matrix products' results and its input, or its input alone."""
    everything = kept_elements(layer, layout.tp, layout.sequence_parallel)
    if recompute == "none" or (layer.shape is not None and not layer.shape.recomputes):
        return everything
    entering = float(layer.output_elements_per_sample)  # its input is the output of a layer like it
    if recompute == "full":
        return entering
    return min(everything, entering + product_elements(layer, layout.tp))
