"""Time of one layer's forward and backward pass on one rank: matrix products, memory traffic, overhead per operation.

    matrix products     FLOPs / rate of a product of that shape (probed; small shapes reach a fraction of the peak)
    norms, activations  every kept element is written once and read once forward, twice that backward; where the
                        probe measured that such functions take longer than their traffic (CPUs), that time
    overhead            operations x probed time of an operation on no data

A CPU does one after the other. On a GPU the host runs ahead, so a pass takes the larger of the host's overhead and
the device's work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpc_accel.plan.kernels import attention_s, device_time, fuses_softmax, is_shaped
from hpc_accel.plan.software import Software
from hpc_accel.probe.hardware import Level, MatmulRate
from hpc_accel.study.model_facts import LayerFacts
from hpc_accel.study.recipe import Precision


@dataclass(frozen=True, kw_only=True)
class PassTime:
    """Host and device time of a pass; they add up on a CPU and overlap on a GPU."""

    host_s: float
    device_s: float

    def __add__(self, other: PassTime) -> PassTime:
        return PassTime(host_s=self.host_s + other.host_s, device_s=self.device_s + other.device_s)

    def __mul__(self, count: int) -> PassTime:
        return PassTime(host_s=self.host_s * count, device_s=self.device_s * count)

    def elapsed_s(self, device: str, sharpness: float | None = None) -> float:
        """Time on the wall. On a GPU with `sharpness` q it is (host^q + device^q)^(1/q), which None makes the larger.

        Near equality neither hides the other whole: work comes in bursts, now of many small kernels, now of few long.
        """
        if device != "cuda":
            return self.host_s + self.device_s
        longer, shorter = max(self.host_s, self.device_s), min(self.host_s, self.device_s)
        if sharpness is None or longer <= 0:
            return longer
        return longer * (1 + (shorter / longer) ** sharpness) ** (1 / sharpness)


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """Passes of one micro-batch through a layer, without communication. `weights` is a part of `backward`."""

    forward: PassTime
    backward: PassTime
    weights: PassTime


def layer_time(
    layer: LayerFacts,
    *,
    micro_batch_size: int,
    tp: int,
    level: Level,
    precision: Precision,
    software: Software,
    sequence_parallel: bool = False,
) -> LayerTime:
    """One micro-batch through `layer` and back.

    Backward is twice forward's products and traffic, and again what is not kept. Gradients of weights are half of its
    products (Qi et al., arXiv 2401.10241), one operation each.
    """
    if is_shaped(layer, level, precision):
        return _shaped_time(layer, micro_batch_size, tp, level, precision, software, sequence_parallel)
    casts = software.cast_bytes_per_parameter / 2 * divided_parameters(layer, tp)
    kept = micro_batch_size * worked_elements(layer, tp, sequence_parallel)
    bandwidth = level.memory_bandwidth_bytes_per_s
    kept_s = max(2 * software.activation_bytes / bandwidth, level.elementwise_s_per_element or 0.0) * kept
    operations: float = layer.num_operations + (2 * layer.num_matmuls if casts else 0)
    if tp > 1 and layer.tp_flops_per_sample:
        operations += software.tensor_parallel_operations * layer.num_matmuls
    rate = matmul_rate(layer, micro_batch_size=micro_batch_size, tp=tp, level=level, precision=precision)
    products_s = micro_batch_size * divided_flops(layer, tp) / rate
    forward = PassTime(
        host_s=operations * level.kernel_overhead_s,
        device_s=products_s + kept_s + casts / bandwidth,
    )
    overhead = level.backward_overhead_s or 2 * level.kernel_overhead_s
    backward = PassTime(
        host_s=forward.host_s * overhead / level.kernel_overhead_s,
        device_s=2 * forward.device_s,
    )
    share = layer.num_matmuls / max(layer.num_operations, layer.num_matmuls) if layer.num_parameters else 0.0
    weights = PassTime(host_s=backward.host_s * share / 2, device_s=products_s if layer.num_parameters else 0.0)
    if software.recompute == "full":
        backward += forward
    elif software.recompute == "selective":
        rest = max(0.0, 1 - layer.num_matmuls / max(1, layer.num_operations))
        backward += PassTime(host_s=forward.host_s * rest, device_s=forward.device_s - products_s)
    return LayerTime(forward=forward, backward=backward, weights=weights)


def _shaped_time(
    layer: LayerFacts,
    micro_batch_size: int,
    tp: int,
    level: Level,
    precision: Precision,
    software: Software,
    sequence_parallel: bool,
) -> LayerTime:
    device = device_time(
        layer,
        micro_batch_size=micro_batch_size,
        tp=tp,
        level=level,
        precision=precision,
        software=software,
        sequence_parallel=sequence_parallel,
    )
    shape = layer.shape
    assert shape is not None
    operations: float = layer.num_operations
    if tp > 1 and layer.tp_flops_per_sample:
        operations += software.tensor_parallel_operations * layer.num_matmuls
    attention = shape.attention
    unfused = attention is not None and not software.fused_attention
    if attention is not None and unfused and not fuses_softmax(attention, micro_batch_size, tp, software):
        operations += software.unfused_softmax_operations
    operations *= 1 + software.straggling_share * math.log2(tp)
    forward = PassTime(host_s=operations * level.kernel_overhead_s, device_s=device.forward_s)
    overhead = level.backward_overhead_s or 2 * level.kernel_overhead_s
    backward = PassTime(host_s=operations * overhead, device_s=device.input_s + device.weight_s)
    share = layer.num_matmuls / max(layer.num_operations, layer.num_matmuls) if layer.num_parameters else 0.0
    weights = PassTime(host_s=backward.host_s * share / 2, device_s=device.weight_s)
    if software.recompute == "full" and shape.recomputes:
        backward += forward
    elif software.recompute == "selective" and attention is not None:
        once, _ = attention_s(attention, micro_batch_size, tp, level, level.product_models[precision], software)
        backward += PassTime(host_s=0.0, device_s=once)
    return LayerTime(forward=forward, backward=backward, weights=weights)


def divided_flops(layer: LayerFacts, tp: int) -> float:
    """Forward FLOPs per sample that one of `tp` ranks executes."""
    return layer.forward_flops_per_sample - layer.tp_flops_per_sample * (1 - 1 / tp)


def divided_parameters(layer: LayerFacts, tp: int) -> float:
    """Parameters that one of `tp` ranks holds."""
    return layer.num_parameters - layer.tp_parameters * (1 - 1 / tp)


def kept_elements(layer: LayerFacts, tp: int, sequence_parallel: bool = False) -> float:
    """Elements per sample one of `tp` ranks keeps for backward.

    What enters and leaves a divided layer is whole on every rank, about five times its output
    (Korthikanti et al., arXiv 2205.05198: 10 of 34 bytes); the rest is divided. With sequence parallelism only what
    was gathered for a product is whole: as much as is sent.
    """
    saved = float(layer.saved_elements_per_sample)
    divided = layer.tp_flops_per_sample or (layer.shape is not None and layer.tp_parameters)
    if tp == 1 or not divided:
        return saved
    gathered = layer.tp_allreduce_elements_per_sample if sequence_parallel else 5.0 * layer.output_elements_per_sample
    whole = min(saved, float(gathered))
    return whole + (saved - whole) / tp


def worked_elements(layer: LayerFacts, tp: int, sequence_parallel: bool) -> float:
    """Elements per sample one of `tp` ranks reads and writes outside products: with a divided sequence its own part."""
    if sequence_parallel and layer.tp_flops_per_sample:
        return layer.saved_elements_per_sample / tp
    return kept_elements(layer, tp)


def product_elements(layer: LayerFacts, tp: int) -> float:
    """Elements per sample that leave the layer's matrix products on one of `tp` ranks, and so are not computed again.

    From FLOPs and parameters as if all weights were equal squares, and at most all that is kept.
    """
    if not layer.num_parameters:
        return 0.0
    rows = layer.forward_flops_per_sample / (2 * layer.num_parameters)
    leaving = rows * math.sqrt(layer.num_parameters * layer.num_matmuls)
    return min(kept_elements(layer, tp), leaving / (tp if layer.tp_flops_per_sample else 1))


def matmul_rate(layer: LayerFacts, *, micro_batch_size: int, tp: int, level: Level, precision: Precision) -> float:
    """FLOP/s of the layer's typical product: [rows, width] x [width, width] for `num_matmuls` equal weights."""
    peak = level.matmul_flops_per_s.get(precision)
    if peak is None:
        raise ValueError(f"no {precision} matrix-product rate was measured")
    points = tuple(point for point in level.matmul_by_size if point.precision == precision)
    if not points or not layer.num_parameters or not layer.forward_flops_per_sample:
        return peak
    weights = divided_parameters(layer, tp)
    rows = micro_batch_size * divided_flops(layer, tp) / (2 * weights)
    # Shapes are measured for a moment; for as long as a step a GPU does not pass what it keeps up.
    return min(peak, rate_of_shape(points, max(1.0, rows), math.sqrt(weights / layer.num_matmuls)))


def rate_of_shape(points: tuple[MatmulRate, ...], rows: float, width: float) -> float:
    """Rate at (rows, width) from the probed shapes around it.

    Each is weighted by the inverse fourth power of the distance between logarithms, so that the nearest decide.
    """
    total = weight_sum = 0.0
    for point in points:
        distance = math.log2(rows / point.m) ** 2 + math.log2(width / math.sqrt(point.n * point.k)) ** 2
        if distance < 1e-9:
            return point.flops_per_s
        total += math.log(point.flops_per_s) / distance**2
        weight_sum += 1 / distance**2
    return math.exp(total / weight_sum)
