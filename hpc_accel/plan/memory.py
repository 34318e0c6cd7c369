"""Peak memory of the fullest rank: weights, gradients, optimizer state, and the activations its schedule keeps.

Under-prediction is what hurts (a job that dies), so what is uncertain is counted: the largest layer's output and its
gradient, one bucket of gradients in transit, and on a CPU the process itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpc_accel.plan.compute import divided_parameters, kept_elements
from hpc_accel.plan.pipeline_simulation import in_flight
from hpc_accel.plan.software import Software
from hpc_accel.study.schema import Layout
from hpc_accel.workloads.facts import LayerFacts, ModelFacts


def peak_memory_bytes(
    facts: ModelFacts, layout: Layout, split: Sequence[int], software: Software, process_bytes: int = 0
) -> int:
    """Bytes of the rank that needs most."""
    start, peaks = 0, []
    for stage, num_layers in enumerate(split):
        layers = facts.layers[start : start + num_layers]
        peaks.append(state_bytes(layers, layout, software) + activation_bytes(layers, stage, layout, software))
        start += num_layers
    batch = layout.micro_batch_size * layout.accumulation_steps * facts.sample_bytes
    return int(max(peaks) + batch + process_bytes)


def state_bytes(layers: Sequence[LayerFacts], layout: Layout, software: Software) -> float:
    """Weights, gradients, optimizer state and, with data parallelism, the bucket in transit."""
    parameters = sum(divided_parameters(layer, layout.tp) for layer in layers)
    each = software.parameter_bytes + software.gradient_bytes + software.optimizer_state_bytes
    gradients = parameters * software.gradient_bytes
    return parameters * each + (min(gradients, software.gradient_bucket_bytes) if layout.dp > 1 else 0.0)


def activation_bytes(layers: Sequence[LayerFacts], stage: int, layout: Layout, software: Software) -> float:
    """What one stage keeps for backward at its fullest moment, and the tensors it is working on."""
    size = software.activation_bytes * layout.micro_batch_size
    kept = [size * kept_elements(layer, layout.tp) for layer in layers]
    outputs = [size * layer.output_elements_per_sample for layer in layers]
    # Without stages each micro-batch's backward runs before the next one's forward.
    flying = in_flight(layout.schedule or "gpipe", layout.pp, stage, layout.accumulation_steps) if layout.pp > 1 else 1
    working = 2 * max(outputs)
    if software.recompute:
        # Only inputs of layers are kept; one layer at a time is whole again during backward.
        return flying * sum(outputs) + max(kept) + working
    return flying * sum(kept) + working
