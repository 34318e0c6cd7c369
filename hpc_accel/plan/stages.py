"""Stages of a layout and what each takes: layers added up, tensor-parallel messages and schedule overhead included."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from hpc_accel.parallel.split import automatic_split
from hpc_accel.plan.compute import PassTime, divided_parameters, layer_backward, layer_forward
from hpc_accel.plan.hardware import Hardware, Level
from hpc_accel.plan.network import Group, allreduce_s
from hpc_accel.plan.software import Software
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Precision
from hpc_accel.study.schema import Resources
from hpc_accel.workloads.facts import LayerFacts, ModelFacts

Content = tuple[tuple[int, int], ...]
"""What a stage is made of: (number of the first layer like it, how many)."""


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
class Stages:
    """All stages of a layout, and of equal ones each once, with the time one micro-batch needs before the last of them.

    A deep model on many stages has few different ones, and a search asks for their maximum thousands of times.
    """

    all: tuple[Stage, ...]
    different: dict[Stage, float]

    @staticmethod
    def of(stages: list[Stage]) -> Stages:
        """With `different` worked out."""
        different: dict[Stage, float] = {}
        before = 0.0
        for stage in stages:
            different[stage] = before
            before += stage.total_s
        return Stages(all=tuple(stages), different=different)


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
        # Most layers of a deep model are equal but for their name; each is known by the first like it.
        alike = [replace(layer, name="") for layer in facts.layers]
        self._first = [alike.index(layer) for layer in alike]
        self._layers: dict[tuple[int, int, int, int], dict[int, _Layer]] = {}
        self._stages: dict[tuple[object, ...], Stages] = {}
        self._splits: dict[int, tuple[int, ...]] = {}
        self._contents: dict[tuple[int, ...], list[Content]] = {}

    def split(self, layout: Layout) -> tuple[int, ...]:
        """Layers per stage; "auto" is what training would do."""
        if isinstance(layout.split, tuple):
            return layout.split
        count = layout.num_stages
        if count not in self._splits:
            self._splits[count] = automatic_split(self.facts, count) if count > 1 else (len(self.facts.layers),)
        return self._splits[count]

    def of(self, layout: Layout, resources: Resources, *, crowded: bool = False) -> Stages:
        """The stages of `layout`.

        Stages take turns, so with more ranks than cores a stage is timed as if each core had one rank; `crowded`
        times it while all ranks of the node compute at once.
        """
        at_once = resources.ranks_per_node
        if self.kind.device == "cpu" and layout.pp > 1 and not crowded:
            at_once = min(at_once, self.kind.num_cpus)
        shape = (layout.dp > 1, layout.num_stages, layout.tp, layout.split)
        key = (*shape, layout.micro_batch_size, resources.ranks_per_node, at_once)
        if key not in self._stages:
            self._stages[key] = self._make(layout, resources.ranks_per_node, at_once)
        return self._stages[key]

    def _make(self, layout: Layout, ranks_per_node: int, at_once: int) -> Stages:
        level = self.kind.level(at_once)
        key = (layout.tp, layout.micro_batch_size, ranks_per_node, at_once)
        if key not in self._layers:
            self._layers[key] = {
                first: self._layer(self.facts.layers[first], layout, ranks_per_node, level)
                for first in set(self._first)
            }
        contents = self._contents_of(self.split(layout))
        known = {content: self._stage(content, self._layers[key], layout, level) for content in set(contents)}
        return Stages.of([known[content] for content in contents])

    def _contents_of(self, split: tuple[int, ...]) -> list[Content]:
        """Per stage, which layers it has how often."""
        if split not in self._contents:
            ends = list(accumulate(split, initial=0))
            slices = [self._first[start:end] for start, end in pairwise(ends)]
            self._contents[split] = [tuple(sorted(Counter(mine).items())) for mine in slices]
        return self._contents[split]

    def _stage(self, content: Content, layers: dict[int, _Layer], layout: Layout, level: Level) -> Stage:
        # Two messages per pass between stages: one is received, one is sent.
        schedule = self.software.pipeline_operations + 2 * self.software.collective_operations if layout.pp > 1 else 0.0
        forward = PassTime(host_s=schedule * level.kernel_overhead_s, device_s=0.0)
        messages = parameters = 0.0
        num_tensors = 0
        backward = forward
        for first, count in content:
            layer = layers[first]
            forward += layer.forward * count
            backward += layer.backward * count
            messages += layer.message_s * count
            parameters += layer.parameters * count
            num_tensors += self.facts.layers[first].num_parameter_tensors * count
        hooks = self.software.data_parallel_operations * num_tensors if layout.dp > 1 else 0.0
        hooks += self.software.micro_batch_operations
        backward += PassTime(host_s=hooks * level.kernel_overhead_s, device_s=0.0)
        backward_messages = messages * (2 if self.software.recompute else 1)
        return Stage(
            forward_s=forward.elapsed_s(self.kind.device),
            backward_s=backward.elapsed_s(self.kind.device),
            forward_comm_s=self._exposed_s(forward, messages),
            backward_comm_s=self._exposed_s(backward, backward_messages),
            num_parameters=parameters,
            num_tensors=num_tensors,
            overhead_s=level.kernel_overhead_s,
            memory_bandwidth_bytes_per_s=level.memory_bandwidth_bytes_per_s,
            threads=level.threads,
        )

    def _exposed_s(self, compute: PassTime, messages_s: float) -> float:
        """What all-reduces add to a pass: nothing while the device, they included, keeps ahead of the host."""
        if self.kind.device != "cuda" or not self.software.queues_collectives:
            return messages_s
        with_messages = PassTime(host_s=compute.host_s, device_s=compute.device_s + messages_s)
        return with_messages.elapsed_s("cuda") - compute.elapsed_s("cuda")

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
            backward=layer_backward(forward, level=level, software=self.software),
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
