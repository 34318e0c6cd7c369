"""What one layer's passes cost on one rank: compute, collectives of tensor parallelism, gathers of sharded parameters.

Where a calibration has the layer, its measured passes stand for compute and collectives together.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpc_accel.plan.calibration import Calibration
from hpc_accel.plan.compute import LayerTime, PassTime, divided_parameters, layer_time
from hpc_accel.plan.measured_passes import Key, MeasuredPasses
from hpc_accel.plan.network import allreduce_s, gather_s, group_of
from hpc_accel.plan.software import Software
from hpc_accel.probe.hardware import Hardware, Level
from hpc_accel.study.layout import Layout
from hpc_accel.study.model_facts import LayerFacts
from hpc_accel.study.recipe import Precision

BATCH_NORM_BYTES = 16
"""Of one channel: a sum and a sum of squares in fp64, as `parallel.batch_norm` sends them."""


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One layer's passes of one micro-batch."""

    time: LayerTime
    message_s: float
    """Collectives forward that compute does not contain: of tensor parallelism, of BatchNorm over all replicas."""
    parameters: float
    gather_s: float
    """One gathering of its sharded parameters."""


class LayerCosts:
    """Costs of layers on one kind of node under one program."""

    def __init__(
        self, hardware: Hardware, precision: Precision, software: Software, calibration: Calibration | None
    ) -> None:
        self.network = hardware.network
        self.kind = hardware.slowest
        self.device = self.kind.device
        self.precision = precision
        self.software = software
        self.measured = MeasuredPasses(calibration, precision, software.recompute, software.options)

    @property
    def messages_backward(self) -> int:
        """How often backward sends what forward sends once."""
        return 2 if self.software.recompute == "full" else 1

    def exposed_s(self, compute: PassTime, messages_s: float) -> float:
        """What all-reduces add to a pass: nothing while the device, they included, keeps ahead of the host."""
        if self.device != "cuda" or not self.software.queues_collectives or not messages_s:
            return messages_s
        with_messages = PassTime(host_s=compute.host_s, device_s=compute.device_s + messages_s)
        alone = compute.elapsed_s("cuda", self.software.sharpness)
        return max(0.0, with_messages.elapsed_s("cuda", self.software.message_sharpness) - alone)

    def of(self, layer: LayerFacts, layout: Layout, ranks_per_node: int, level: Level) -> LayerCost:
        """Of `layer` in `layout`, with so many ranks on a node that is as fast as `level` says."""
        parameters = divided_parameters(layer, layout.tp)
        gather = 0.0
        if layout.shard == "full" and parameters:
            group = group_of(layout, "shards", ranks_per_node)
            gather = gather_s(self.network, group, parameters * self.software.gather_bytes) or 0.0
            gather += self.software.collective_operations * level.kernel_overhead_s
        time, message = self._passes(layer, layout, ranks_per_node, level)
        key = Key(layout.tp, layout.micro_batch_size, layout.sequence_parallel, level.ranks)
        measured = self.measured.of(layer, key, lambda other: self.alone_s(layer, layout, ranks_per_node, level, other))
        if measured is not None:
            time, message = _as_measured(time, measured), 0.0
        message += self._batch_norm_s(layer, layout, ranks_per_node, level)
        return LayerCost(time=time, message_s=message, parameters=parameters, gather_s=gather)

    def _batch_norm_s(self, layer: LayerFacts, layout: Layout, ranks_per_node: int, level: Level) -> float:
        """All-reduces of the statistics of its BatchNorm layers, forward; backward's are as many of half the bytes."""
        if not self.software.synchronises_batch_norm or layout.dp == 1 or not layer.num_batch_norms:
            return 0.0
        num_bytes = BATCH_NORM_BYTES * layer.batch_norm_channels / layer.num_batch_norms
        send = allreduce_s(self.network, group_of(layout, "dp", ranks_per_node), num_bytes) or 0.0
        overhead = self.software.collective_operations * level.kernel_overhead_s
        return layer.num_batch_norms * (send + overhead)

    def _passes(self, layer: LayerFacts, layout: Layout, ranks_per_node: int, level: Level) -> tuple[LayerTime, float]:
        """Predicted compute, and messages of one forward pass."""
        time = layer_time(
            layer,
            micro_batch_size=layout.micro_batch_size,
            tp=layout.tp,
            level=level,
            precision=self.precision,
            software=self.software,
            sequence_parallel=layout.sequence_parallel,
        )
        wait_s = self._waits_s(layer, layout, ranks_per_node)
        if wait_s:
            forward = PassTime(host_s=time.forward.host_s + wait_s, device_s=time.forward.device_s)
            again = wait_s * self.messages_backward
            backward = PassTime(host_s=time.backward.host_s + again, device_s=time.backward.device_s)
            time = LayerTime(forward=forward, backward=backward, weights=time.weights)
        return time, self._message_s(layer, layout, ranks_per_node, level)

    def _waits_s(self, layer: LayerFacts, layout: Layout, ranks_per_node: int) -> float:
        """Of the host in one forward pass, for rings between which a pipeline's messages cross nodes."""
        if not self.software.ring_wait_s or layout.tp == 1 or not layer.tp_num_allreduces:
            return 0.0
        if layout.pp == 1 or not group_of(layout, "pp", ranks_per_node).spans_nodes:
            return 0.0
        return 2 * layer.tp_num_allreduces * (layout.tp - 1) * self.software.ring_wait_s

    def alone_s(
        self, layer: LayerFacts, layout: Layout, ranks_per_node: int, level: Level, key: Key
    ) -> tuple[float, float]:
        """Predicted forward and backward of `layer` by itself, measured as `key` says, messages included."""
        changed = {"tp": key.tp, "micro_batch_size": key.micro_batch_size, "sequence_parallel": key.sequence_parallel}
        other = layout.model_copy(update=changed)
        level = self.kind.level(key.ranks) if key.ranks is not None else level
        time, message = self._passes(layer, other, ranks_per_node, level)
        device, sharpness = self.device, self.software.sharpness
        forward = time.forward.elapsed_s(device, sharpness) + self.exposed_s(time.forward, message)
        again = message * self.messages_backward
        return forward, time.backward.elapsed_s(device, sharpness) + self.exposed_s(time.backward, again)

    def _message_s(self, layer: LayerFacts, layout: Layout, ranks_per_node: int, level: Level) -> float:
        """A layer's tensor-parallel all-reduces, forward; with a divided sequence each is a gather and a scatter."""
        elements = layer.tp_allreduce_elements_per_sample
        if layout.tp == 1 or not elements:
            return 0.0
        num = layer.tp_num_allreduces or max(1, round(elements / max(1, layer.output_elements_per_sample)))
        num_bytes = elements / num * layout.micro_batch_size * self.software.wire_bytes
        group = group_of(layout, "tp", ranks_per_node)
        send = allreduce_s(self.network, group, num_bytes) or 0.0
        if layout.sequence_parallel:
            send = 2 * (gather_s(self.network, group, num_bytes) or 0.0)
        entered = 2 if layout.sequence_parallel else 1
        overhead = entered * self.software.collective_operations * level.kernel_overhead_s
        if layout.sequence_parallel:  # parts lie side by side only after a copy, read and written, each way
            overhead += 4 * num_bytes / level.memory_bandwidth_bytes_per_s
        return num * (send + overhead)


def _as_measured(time: LayerTime, measured: tuple[float, float]) -> LayerTime:
    """`measured` forward and backward; the weights' share of backward stays as predicted."""
    forward_s, backward_s = measured
    whole = time.backward.host_s + time.backward.device_s
    share = (time.weights.host_s + time.weights.device_s) / whole if whole else 0.0
    return LayerTime(
        forward=PassTime(host_s=0.0, device_s=forward_s),
        backward=PassTime(host_s=0.0, device_s=backward_s),
        weights=PassTime(host_s=0.0, device_s=share * backward_s),
    )
