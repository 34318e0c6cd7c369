"""What each stage of a layout takes: layers added up, messages within passes and schedule overhead included."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from hpc_accel.plan.compute import LayerTime, PassTime, divided_parameters, layer_time
from hpc_accel.plan.network import Group, allreduce_s, gather_s, group_of
from hpc_accel.plan.software import Software, averages_later
from hpc_accel.plan.stage_cost import PipelineCost, StageCost, exposed_s
from hpc_accel.probe.hardware import Hardware, Level
from hpc_accel.study.layout import V_SHAPED, Layout
from hpc_accel.study.model_facts import LayerFacts, ModelFacts
from hpc_accel.study.recipe import Precision
from hpc_accel.study.run import Resources
from hpc_accel.study.stage_partition import automatic_split

Content = tuple[tuple[int, int], ...]
"""What a stage is made of: (number of the first layer like it, how many)."""


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One layer's passes: compute, and messages of tensor parallelism and of sharded parameters."""

    time: LayerTime
    message_s: float
    parameters: float
    gather_s: float


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
        self._layers: dict[tuple[object, ...], dict[int, _Layer]] = {}
        self._stages: dict[tuple[object, ...], PipelineCost] = {}
        self._least_work: dict[tuple[object, ...], float] = {}
        self._parameters: dict[int, float] = {}
        self._gathers: dict[tuple[int, Group], float] = {}
        self._splits: dict[tuple[int, str], tuple[int, ...]] = {}
        self._contents: dict[tuple[int, ...], list[Content]] = {}

    def split(self, layout: Layout) -> tuple[int, ...]:
        """Layers per stage; "auto" and "measured" are what training would do."""
        if isinstance(layout.split, tuple):
            return layout.split
        key = (layout.num_stages, layout.split)
        if key not in self._splits:
            facts = self.facts if layout.split == "auto" else self._timed(layout)
            count = layout.num_stages
            self._splits[key] = automatic_split(facts, count) if count > 1 else (len(facts.layers),)
        return self._splits[key]

    def _timed(self, layout: Layout) -> ModelFacts:
        """The model with each layer's predicted nanoseconds in place of its FLOPs: what will be measured."""
        layers = self._layers_of(layout, ranks_per_node=1, at_once=1)
        timed = []
        for layer, first in zip(self.facts.layers, self._first, strict=True):
            both = layers[first].time.forward + layers[first].time.backward
            nanoseconds = 1e9 * both.elapsed_s(self.kind.device)
            timed.append(replace(layer, forward_flops_per_sample=nanoseconds, saved_elements_per_sample=0))
        return replace(self.facts, layers=tuple(timed))

    def of(self, layout: Layout, resources: Resources, *, crowded: bool = False) -> PipelineCost:
        """The stages of `layout`.

        Stages take turns, so with more ranks than cores a stage is timed as if each core had one rank; `crowded`
        times it while all ranks of the node compute at once.
        """
        at_once = resources.ranks_per_node if crowded else self._at_once(layout, resources)
        placed = "v" if layout.schedule in V_SHAPED else layout.stages_per_rank
        shape = (self._has_hooks(layout), layout.pp, placed, layout.split)
        key = (*shape, *self._layer_key(layout, resources.ranks_per_node, at_once))
        if key not in self._stages:
            self._stages[key] = self._make(layout, resources.ranks_per_node, at_once)
        return self._stages[key]

    def least_work_s(self, layout: Layout, resources: Resources) -> float:
        """Passes of one micro-batch through all layers, however they are cut: no sharding, no schedule."""
        key = self._layer_key(layout, resources.ranks_per_node, self._at_once(layout, resources))
        if key not in self._least_work:
            layers = self._layers_of(layout, resources.ranks_per_node, self._at_once(layout, resources))
            forward = backward = PassTime(host_s=0.0, device_s=0.0)
            messages = 0.0
            for first in self._first:
                forward += layers[first].time.forward
                backward += layers[first].time.backward
                messages += layers[first].message_s
            device = self.kind.device
            self._least_work[key] = sum(
                each.elapsed_s(device) + self._exposed_s(each, times * messages)
                for each, times in ((forward, 1), (backward, self._messages_backward))
            )
        return self._least_work[key]

    def num_parameters(self, tp: int) -> float:
        """Of the whole model on one of `tp` ranks."""
        if tp not in self._parameters:
            self._parameters[tp] = sum(divided_parameters(layer, tp) for layer in self.facts.layers)
        return self._parameters[tp]

    def gathers_s(self, layout: Layout, group: Group) -> float:
        """All-gathers of all layers' parameters, each once."""
        key = (layout.tp, group)
        if key not in self._gathers:
            sizes = [divided_parameters(layer, layout.tp) for layer in self.facts.layers]
            each = {size: gather_s(self.network, group, size * self.software.gather_bytes) for size in set(sizes)}
            self._gathers[key] = sum(each[size] or 0.0 for size in sizes)
        return self._gathers[key]

    @property
    def _messages_backward(self) -> int:
        return 2 if self.software.recompute == "full" else 1

    def _at_once(self, layout: Layout, resources: Resources) -> int:
        """Ranks of a node that compute at once: stages take turns, so with few cores each has one."""
        few_cores = self.kind.device == "cpu" and layout.pp > 1
        return min(resources.ranks_per_node, self.kind.num_cpus) if few_cores else resources.ranks_per_node

    def _layer_key(self, layout: Layout, ranks_per_node: int, at_once: int) -> tuple[object, ...]:
        """All that the passes of a layer depend on."""
        tensor = group_of(layout, "tp", ranks_per_node) if layout.tp > 1 else None
        data = group_of(layout, "dp", ranks_per_node) if layout.shard == "full" else None
        return layout.micro_batch_size, at_once, tensor, layout.sequence_parallel, data

    def _layers_of(self, layout: Layout, ranks_per_node: int, at_once: int) -> dict[int, _Layer]:
        key = self._layer_key(layout, ranks_per_node, at_once)
        if key not in self._layers:
            level = self.kind.level(at_once)
            self._layers[key] = {
                first: self._layer(self.facts.layers[first], layout, ranks_per_node, level)
                for first in set(self._first)
            }
        return self._layers[key]

    def _make(self, layout: Layout, ranks_per_node: int, at_once: int) -> PipelineCost:
        level = self.kind.level(at_once)
        layers = self._layers_of(layout, ranks_per_node, at_once)
        contents = self._contents_of(self.split(layout))
        overlaps = self.can_overlap(ranks_per_node, level.threads)
        known = {content: self._stage(content, layers, layout, level, overlaps) for content in set(contents)}
        return PipelineCost([known[content] for content in contents], layout.stages)

    def can_overlap(self, ranks_per_node: int, threads: int) -> bool:
        """Whether something communicates while a rank computes: on a CPU that takes a core of its own."""
        return self.kind.device == "cuda" or ranks_per_node * threads < self.kind.num_cpus

    def averages_later(self, layout: Layout) -> bool:
        """Whether replicas exchange something after backward, and not each gradient while it runs."""
        later = averages_later(layout, self.software, is_sequential=self.facts.sequential)
        return later or self.software.average_every > 1

    def _has_hooks(self, layout: Layout) -> bool:
        """Whether backward tells the replicas of every gradient."""
        return layout.dp > 1 and not self.averages_later(layout)

    def _contents_of(self, split: tuple[int, ...]) -> list[Content]:
        """Per stage, which layers it has how often."""
        if split not in self._contents:
            ends = list(accumulate(split, initial=0))
            slices = [self._first[start:end] for start, end in pairwise(ends)]
            self._contents[split] = [tuple(sorted(Counter(mine).items())) for mine in slices]
        return self._contents[split]

    def _stage(
        self, content: Content, layers: dict[int, _Layer], layout: Layout, level: Level, overlaps: bool
    ) -> StageCost:
        own, device, overhead_s = self.software, self.kind.device, level.kernel_overhead_s
        # Two messages per pass between stages: one is received, one is sent.
        alone = own.pipeline_operations if layout.pp > 1 else 0.0
        schedule = alone + 2 * own.collective_operations if layout.pp > 1 else 0.0
        forward = backward = PassTime(host_s=schedule * overhead_s, device_s=0.0)
        weights = PassTime(host_s=0.0, device_s=0.0)
        messages = gathers = parameters = largest = 0.0
        num_tensors = num_layers = num_matmuls = 0
        for first, count in content:
            layer, facts = layers[first], self.facts.layers[first]
            forward += layer.time.forward * count
            backward += layer.time.backward * count
            weights += layer.time.weights * count
            messages += layer.message_s * count
            gathers += layer.gather_s * count
            parameters += layer.parameters * count
            largest = max(largest, layer.parameters)
            num_tensors += facts.num_parameter_tensors * count
            if facts.num_parameters:
                num_layers += count
                num_matmuls += facts.num_matmuls * count
        hooks = own.data_parallel_operations * num_tensors if self._has_hooks(layout) else 0.0
        if layout.shard == "full":
            forward += PassTime(host_s=own.sharded_forward_operations * num_layers * overhead_s, device_s=0.0)
            hooks = own.sharded_backward_operations * num_layers
        hooks += own.micro_batch_operations
        backward += PassTime(host_s=hooks * overhead_s, device_s=0.0)
        inputs = PassTime(host_s=backward.host_s - weights.host_s, device_s=backward.device_s - weights.device_s)
        weights += PassTime(host_s=alone * overhead_s, device_s=0.0)
        first_gather = max(layers[first].gather_s for first, _ in content)
        again = messages * self._messages_backward
        return StageCost(
            forward_s=forward.elapsed_s(device),
            backward_s=backward.elapsed_s(device),
            weight_s=weights.elapsed_s(device),
            input_s=inputs.elapsed_s(device),
            forward_comm_s=self._exposed_s(forward, messages)
            + exposed_s(gathers, first_gather, forward.elapsed_s(device), overlaps, device),
            backward_comm_s=self._exposed_s(backward, again)
            + exposed_s(gathers, first_gather, backward.elapsed_s(device), overlaps, device),
            num_parameters=parameters,
            largest_parameters=largest,
            num_tensors=num_tensors,
            num_layers=num_layers,
            num_matmuls=num_matmuls,
            overhead_s=overhead_s,
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
        parameters = divided_parameters(layer, layout.tp)
        time = layer_time(
            layer,
            micro_batch_size=layout.micro_batch_size,
            tp=layout.tp,
            level=level,
            precision=self.precision,
            software=self.software,
            sequence_parallel=layout.sequence_parallel,
        )
        gather = 0.0
        if layout.shard == "full" and parameters:
            group = group_of(layout, "dp", ranks_per_node)
            gather = gather_s(self.network, group, parameters * self.software.gather_bytes) or 0.0
            gather += self.software.collective_operations * level.kernel_overhead_s
        message = self._message_s(layer, layout, ranks_per_node, level)
        return _Layer(time=time, message_s=message, parameters=parameters, gather_s=gather)

    def _message_s(self, layer: LayerFacts, layout: Layout, ranks_per_node: int, level: Level) -> float:
        """A layer's tensor-parallel all-reduces, forward; with a divided sequence each is a gather and a scatter."""
        elements = layer.tp_allreduce_elements_per_sample
        if layout.tp == 1 or not elements:
            return 0.0
        num = layer.tp_num_allreduces or max(1, round(elements / max(1, layer.output_elements_per_sample)))
        num_bytes = elements / num * layout.micro_batch_size * self.software.wire_bytes
        group = group_of(layout, "tp", ranks_per_node)
        entered = 2 if layout.sequence_parallel else 1
        overhead = entered * self.software.collective_operations * level.kernel_overhead_s
        if layout.sequence_parallel:  # parts lie side by side only after a copy, read and written, each way
            overhead += 4 * num_bytes / level.memory_bandwidth_bytes_per_s
        return num * ((allreduce_s(self.network, group, num_bytes) or 0.0) + overhead)
