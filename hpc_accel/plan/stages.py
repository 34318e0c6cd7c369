"""Stages of a layout and what each takes: layers added up, tensor-parallel messages and schedule overhead included."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hpc_accel.parallel.split import balanced_split
from hpc_accel.plan.compute import ZERO, PassTime, divided_parameters, layer_backward, layer_forward
from hpc_accel.plan.hardware import Hardware, Level
from hpc_accel.plan.network import Group, allreduce_s
from hpc_accel.plan.software import Software
from hpc_accel.study.schema import Layout, Precision, Resources
from hpc_accel.workloads.facts import LayerFacts, ModelFacts


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One micro-batch on one rank of a stage, and what of the model the rank holds."""

    forward_s: float
    backward_s: float
    forward_comm_s: float
    backward_comm_s: float
    num_parameters: float
    num_tensors: int
    overhead_s: float
    """Of one operation."""
    memory_bandwidth_bytes_per_s: float
    threads: int

    @property
    def total_s(self) -> float:
        """Forward and backward of one micro-batch."""
        return self.forward_s + self.backward_s + self.forward_comm_s + self.backward_comm_s


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One layer's passes: compute, and messages of tensor parallelism."""

    forward: PassTime
    backward: PassTime
    message_s: float
    parameters: float


class StageTimes:
    """Stage times by layout. Layers depend on few of a layout's numbers, so they are computed once for many."""

    def __init__(self, facts: ModelFacts, hardware: Hardware, precision: Precision, software: Software) -> None:
        self.facts = facts
        self.network = hardware.network
        self.kind = hardware.slowest
        self.precision = precision
        self.software = software
        self._layers: dict[tuple[int, int, int, int], list[_Layer]] = {}
        self._stages: dict[tuple[object, ...], tuple[Stage, ...]] = {}
        self._splits: dict[int, tuple[int, ...]] = {}

    def split(self, layout: Layout) -> tuple[int, ...]:
        """Layers per stage; "auto" is balanced as hpc_accel.parallel balances it."""
        if layout.split != "auto":
            return layout.split
        if layout.pp not in self._splits:
            costs = [layer.forward_flops_per_sample + layer.saved_elements_per_sample for layer in self.facts.layers]
            self._splits[layout.pp] = balanced_split(costs, layout.pp) if layout.pp > 1 else (len(costs),)
        return self._splits[layout.pp]

    def of(self, layout: Layout, resources: Resources, *, crowded: bool = False) -> tuple[Stage, ...]:
        """The stages of `layout`.

        Stages take turns, so with more ranks than cores a stage is timed as if each core had one rank; `crowded`
        times it while all ranks of the node compute at once.
        """
        at_once = resources.ranks_per_node
        if self.kind.device == "cpu" and layout.pp > 1 and not crowded:
            at_once = min(at_once, self.kind.num_cpus)
        key = (layout.pp, layout.tp, layout.micro_batch_size, resources.ranks_per_node, at_once, layout.split)
        if key not in self._stages:
            self._stages[key] = self._make(layout, resources.ranks_per_node, at_once)
        return self._stages[key]

    def _make(self, layout: Layout, ranks_per_node: int, at_once: int) -> tuple[Stage, ...]:
        level = self.kind.level(at_once)
        key = (layout.tp, layout.micro_batch_size, ranks_per_node, at_once)
        if key not in self._layers:
            # Most layers of a deep model are equal but for their name.
            alike = {replace(layer, name=""): layer for layer in self.facts.layers}
            times = {same: self._layer(layer, layout, ranks_per_node, level) for same, layer in alike.items()}
            self._layers[key] = [times[replace(layer, name="")] for layer in self.facts.layers]
        layers, start, stages = self._layers[key], 0, []
        for size in self.split(layout):
            mine = layers[start : start + size]
            num_tensors = sum(layer.num_parameter_tensors for layer in self.facts.layers[start : start + size])
            stages.append(self._stage(mine, num_tensors, layout, level))
            start += size
        return tuple(stages)

    def _stage(self, layers: list[_Layer], num_tensors: int, layout: Layout, level: Level) -> Stage:
        # Two messages per pass between stages: one is received, one is sent.
        schedule = self.software.pipeline_operations + 2 * self.software.collective_operations if layout.pp > 1 else 0.0
        extra = PassTime(host_s=schedule * level.kernel_overhead_s, device_s=0.0)
        forward = sum((layer.forward for layer in layers), extra)
        backward = sum((layer.backward for layer in layers), extra)
        messages = sum(layer.message_s for layer in layers)
        return Stage(
            forward_s=forward.elapsed_s(self.kind.device),
            backward_s=backward.elapsed_s(self.kind.device),
            forward_comm_s=messages,
            backward_comm_s=messages * (2 if self.software.recompute else 1),
            num_parameters=sum(layer.parameters for layer in layers),
            num_tensors=num_tensors,
            overhead_s=level.kernel_overhead_s,
            memory_bandwidth_bytes_per_s=level.memory_bandwidth_bytes_per_s,
            threads=level.threads,
        )

    def _layer(self, layer: LayerFacts, layout: Layout, ranks_per_node: int, level: Level) -> _Layer:
        forward = layer_forward(
            layer,
            micro_batch_size=layout.micro_batch_size,
            tp=layout.tp,
            level=level,
            precision=self.precision,
            software=self.software,
        )
        return _Layer(
            forward=forward,
            backward=layer_backward(forward, level=level, software=self.software) if forward != ZERO else ZERO,
            message_s=self._message_s(layer, layout, ranks_per_node, level),
            parameters=divided_parameters(layer, layout.tp),
        )

    def _message_s(self, layer: LayerFacts, layout: Layout, ranks_per_node: int, level: Level) -> float:
        """A layer's tensor-parallel all-reduces, forward."""
        elements = layer.tp_allreduce_elements_per_sample
        if layout.tp == 1 or not elements:
            return 0.0
        num = layer.tp_num_allreduces or max(1, round(elements / max(1, layer.output_elements_per_sample)))
        num_bytes = elements / num * layout.micro_batch_size * self.software.wire_bytes
        group = Group(size=layout.tp, stride=1, ranks_per_node=ranks_per_node)
        overhead = self.software.collective_operations * level.kernel_overhead_s
        return num * ((allreduce_s(self.network, group, num_bytes) or 0.0) + overhead)
