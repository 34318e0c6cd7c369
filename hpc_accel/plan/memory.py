"""Peak memory of the fullest rank: weights, gradients, optimizer state, and the activations its schedule keeps.

Under-prediction is what hurts (a job that dies), so what is uncertain is counted: the largest layer's output and its
gradient, one bucket of gradients in transit, and on a CPU the process itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpc_accel.plan.compute import divided_parameters, kept_elements
from hpc_accel.plan.pipeline_simulation import in_flight
from hpc_accel.plan.software import Software
from hpc_accel.study.layout import Layout
from hpc_accel.workloads.facts import LayerFacts, ModelFacts


@dataclass(frozen=True, kw_only=True)
class StageSize:
    """What one rank of a stage holds. Element counts are per sample of a micro-batch."""

    parameters: float
    kept: float
    largest_kept: float
    outputs: float
    largest_output: float


def stage_sizes(facts: ModelFacts, split: Sequence[int], tp: int) -> dict[StageSize, int]:
    """The stages' sizes, which no batch changes, each with the first stage that has it.

    Of equal stages the first holds most micro-batches, so only that one can be the fullest.
    """
    sizes: dict[StageSize, int] = {}
    start = 0
    for stage, num_layers in enumerate(split):
        sizes.setdefault(_size(facts.layers[start : start + num_layers], tp), stage)
        start += num_layers
    return sizes


def peak_memory_bytes(
    sizes: Mapping[StageSize, int], layout: Layout, software: Software, *, sample_bytes: int, process_bytes: int = 0
) -> int:
    """Bytes of the rank that needs most."""
    peak = max(
        state_bytes(size, layout, software) + activation_bytes(size, stage, layout, software)
        for size, stage in sizes.items()
    )
    batch = layout.micro_batch_size * layout.accumulation_steps * sample_bytes
    return int(peak + batch + process_bytes)


def state_bytes(size: StageSize, layout: Layout, software: Software) -> float:
    """Weights, gradients, optimizer state and, with data parallelism, the bucket in transit."""
    each = software.parameter_bytes + software.gradient_bytes + software.optimizer_state_bytes
    gradients = size.parameters * software.gradient_bytes
    return size.parameters * each + (min(gradients, software.gradient_bucket_bytes) if layout.dp > 1 else 0.0)


def activation_bytes(size: StageSize, stage: int, layout: Layout, software: Software) -> float:
    """What one stage keeps for backward at its fullest moment, and the tensors it is working on."""
    # Without stages each micro-batch's backward runs before the next one's forward.
    flying = in_flight(layout.schedule or "gpipe", layout.pp, stage, layout.accumulation_steps) if layout.pp > 1 else 1
    working = 2 * size.largest_output
    if software.recompute:
        # Only inputs of layers are kept; one layer at a time is whole again during backward.
        elements = flying * size.outputs + size.largest_kept + working
    else:
        elements = flying * size.kept + working
    return software.activation_bytes * layout.micro_batch_size * elements


def _size(layers: Sequence[LayerFacts], tp: int) -> StageSize:
    kept = [kept_elements(layer, tp) for layer in layers]
    outputs = [layer.output_elements_per_sample for layer in layers]
    return StageSize(
        parameters=sum(divided_parameters(layer, tp) for layer in layers),
        kept=sum(kept),
        largest_kept=max(kept),
        outputs=sum(outputs),
        largest_output=max(outputs),
    )
