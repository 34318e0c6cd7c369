"""Time of a layer whose operations are known one by one, on a machine with models of products and attention.

    products     the machine's product model at each shape; backward has two of each, for inputs and for weights
    attention    fused: its own rate; unfused: two batched products a head, and the scores read and written
    the rest     bytes over memory bandwidth, and for each kernel at least the time a kernel takes to start
    host         operations times the time to launch one

The host runs ahead of a GPU, so a pass takes the larger of host and device time.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpc_accel.plan.software import Software
from hpc_accel.probe.hardware import Level, ProductModel
from hpc_accel.study.model_facts import AttentionShape, LayerFacts, Product
from hpc_accel.study.recipe import Precision

SCORE_BYTES = 9.0
"""Of an unfused 16-bit attention score: softmax reads and writes it, dropout too, and writes a mask of one byte."""
UNFUSED_SOFTMAX_BYTES = 24.0
"""More where no kernel does scale, mask and softmax at once: cast to fp32 and back, each function by itself."""
TRAFFIC_SHARE = 0.8
"""Of the memory bandwidth, what operations that only read and write reach (aiconfigurator's system files)."""


@dataclass(frozen=True, kw_only=True)
class DeviceTime:
    """Seconds of a GPU for one micro-batch's passes through a layer, alone."""

    forward_s: float
    input_s: float
    weight_s: float


def is_shaped(layer: LayerFacts, level: Level, precision: Precision) -> bool:
    """Whether both the layer's operations and the machine's models of them are known."""
    return layer.shape is not None and precision in level.product_models


def device_time(
    layer: LayerFacts,
    *,
    micro_batch_size: int,
    tp: int,
    level: Level,
    precision: Precision,
    software: Software,
    sequence_parallel: bool,
) -> DeviceTime:
    """Of `layer`, which `is_shaped`."""
    shape, model = layer.shape, level.product_models[precision]
    assert shape is not None
    forward = inputs = weights = 0.0
    for product in shape.products:
        one, two, three = _product_times(product, micro_batch_size, tp, model)
        forward, inputs, weights = forward + one, inputs + two, weights + three
    if tp == 1:
        forward, inputs, weights = (part / shape.undivided_rate for part in (forward, inputs, weights))
    if shape.attention is not None:
        once, back = attention_s(shape.attention, micro_batch_size, tp, level, model, software)
        forward, inputs = forward + once, inputs + back
    whole = shape.moved_bytes - shape.tp_moved_bytes
    whole = whole / tp if sequence_parallel else whole
    moved = micro_batch_size * (whole + shape.tp_moved_bytes / tp)
    traffic = moved / (TRAFFIC_SHARE * level.memory_bandwidth_bytes_per_s)
    accumulated = software.accumulation_bytes * (layer.num_parameters - layer.tp_parameters * (1 - 1 / tp))
    weights += accumulated / (TRAFFIC_SHARE * level.memory_bandwidth_bytes_per_s)
    starts = max(0, layer.num_operations - layer.num_matmuls) * (level.kernel_start_s or 0.0)
    return DeviceTime(
        forward_s=forward + max(traffic, starts),
        input_s=inputs + max(shape.backward_moved * traffic, starts),
        weight_s=weights,
    )


def _product_times(product: Product, micro_batch_size: int, tp: int, model: ProductModel) -> tuple[float, float, float]:
    """Forward, gradient of the input, gradient of the weight."""
    rows = micro_batch_size * product.rows
    inner = product.inner / (tp if product.divided == "inner" else 1)
    columns = product.columns / (tp if product.divided == "columns" else 1)
    return (
        model.time_s(rows, columns, inner),
        model.time_s(rows, inner, columns),
        model.time_s(inner, columns, rows),
    )


def attention_s(
    shape: AttentionShape, micro_batch_size: int, tp: int, level: Level, model: ProductModel, software: Software
) -> tuple[float, float]:
    """Forward and backward."""
    heads = micro_batch_size * shape.heads / tp
    fused = level.attention
    if software.fused_attention and fused is not None:
        pairs = shape.positions * (shape.positions + fused.positions) * (1 if shape.causal else 2)
        once = 2 * heads * shape.head_width * pairs / (fused.flops_per_s * software.attention_rate_share)
        once += fused.start_s
        return once, fused.backward_ratio * once
    scores = heads * shape.positions**2
    moved = SCORE_BYTES + (0.0 if fuses_softmax(shape, micro_batch_size, tp, software) else UNFUSED_SOFTMAX_BYTES)
    traffic = scores * moved / (TRAFFIC_SHARE * level.memory_bandwidth_bytes_per_s)
    positions, width = shape.positions, shape.head_width
    products = model.time_s(positions, positions, width, num=heads) + model.time_s(
        positions, width, positions, num=heads
    )
    return products + traffic, 2 * products + traffic


def fuses_softmax(shape: AttentionShape, micro_batch_size: int, tp: int, software: Software) -> bool:
    """Whether one kernel does scale, mask and softmax: Megatron's takes multiples of four matrices at a time."""
    multiple = software.softmax_batch_multiple
    return multiple is None or shape.heads / tp * micro_batch_size % multiple == 0
