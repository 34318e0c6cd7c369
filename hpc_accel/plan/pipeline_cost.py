"""What each stage of a layout takes: layers added up, messages within passes and schedule overhead included."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import accumulate, pairwise

from hpc_accel.plan.calibration import Calibration
from hpc_accel.plan.compute import PassTime, divided_parameters
from hpc_accel.plan.layer_cost import LayerCost, LayerCosts
from hpc_accel.plan.measured_passes import Key
from hpc_accel.plan.network import Group, gather_s, group_of
from hpc_accel.plan.software import Software
from hpc_accel.plan.stage_cost import PipelineCost, StageCost, exposed_s
from hpc_accel.probe.hardware import Hardware, Level
from hpc_accel.study.layout import V_SHAPED, Layout
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.recipe import Precision
from hpc_accel.study.run import Resources
from hpc_accel.study.stage_partition import automatic_split

Content = tuple[tuple[int, int], ...]
"""What a stage is made of: (number of the first layer like it, how many)."""


class StageTimes:
    """Stage times by layout. Layers depend on few of a layout's numbers, so they are computed once for many."""

    def __init__(
        self,
        facts: ModelFacts,
        hardware: Hardware,
        precision: Precision,
        software: Software,
        calibration: Calibration | None = None,
    ) -> None:
        self.facts = facts
        self.layer_costs = LayerCosts(hardware, precision, software, calibration)
        self.calibration = calibration
        self.network = hardware.network
        self.kind = hardware.slowest
        self.precision = precision
        self.software = software
        # Most layers of a deep model are equal but for their name; each is known by the first like it.
        alike = [replace(layer, name="") for layer in facts.layers]
        self._first = [alike.index(layer) for layer in alike]
        self._layers: dict[tuple[object, ...], dict[int, LayerCost]] = {}
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
        layers = self._layers_of(layout, ranks_per_node=1)
        timed = []
        for layer, first in zip(self.facts.layers, self._first, strict=True):
            both = layers[first].time.forward + layers[first].time.backward
            nanoseconds = 1e9 * both.elapsed_s(self.kind.device, self.software.sharpness)
            timed.append(replace(layer, forward_flops_per_sample=nanoseconds, saved_elements_per_sample=0))
        return replace(self.facts, layers=tuple(timed))

    def of(self, layout: Layout, resources: Resources) -> PipelineCost:
        """The stages of `layout`."""
        placed = "v" if layout.schedule in V_SHAPED else layout.stages_per_rank
        shape = (self._has_hooks(layout), layout.pp, placed, layout.split)
        key = (*shape, *self._layer_key(layout, resources.ranks_per_node))
        if key not in self._stages:
            self._stages[key] = self._make(layout, resources.ranks_per_node)
        return self._stages[key]

    def least_work_s(self, layout: Layout, resources: Resources) -> float:
        """Passes of one micro-batch through all layers, however they are cut: no sharding, no schedule."""
        key = self._layer_key(layout, resources.ranks_per_node)
        if key not in self._least_work:
            layers = self._layers_of(layout, resources.ranks_per_node)
            forward = backward = PassTime(host_s=0.0, device_s=0.0)
            messages = 0.0
            for first in self._first:
                forward += layers[first].time.forward
                backward += layers[first].time.backward
                messages += layers[first].message_s
            device = self.kind.device
            self._least_work[key] = sum(
                each.elapsed_s(device, self.software.sharpness) + self.layer_costs.exposed_s(each, times * messages)
                for each, times in ((forward, 1), (backward, self.layer_costs.messages_backward))
            )
        return self._least_work[key]

    def layers_alone_s(self, layout: Layout, resources: Resources) -> list[tuple[float, float]]:
        """Forward and backward of each layer, messages included."""
        costs, per_node = self.layer_costs, resources.ranks_per_node
        level = self.kind.level(per_node)
        key = Key(layout.tp, layout.micro_batch_size, layout.sequence_parallel, level.ranks)
        found = {first: costs.alone_s(self.facts.layers[first], layout, per_node, level, key) for first in self._first}
        return [found[first] for first in self._first]

    def measured_power_w(self, layout: Layout, resources: Resources) -> float | None:
        """Of a node in measured steps like those of `layout`; None where none was measured."""
        key = Key(layout.tp, layout.micro_batch_size, layout.sequence_parallel, resources.ranks_per_node)
        return self.layer_costs.measured.power_w(key)

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

    def _layer_key(self, layout: Layout, ranks_per_node: int) -> tuple[object, ...]:
        """All that the passes of a layer depend on."""
        tensor = group_of(layout, "tp", ranks_per_node) if layout.tp > 1 else None
        waits = layout.shard == "full" or (self.software.synchronises_batch_norm and layout.dp > 1)
        data = group_of(layout, "dp", ranks_per_node) if waits else None
        crosses = layout.pp > 1 and bool(self.software.ring_wait_s)
        stages = group_of(layout, "pp", ranks_per_node).spans_nodes if crosses else None
        divided, sharded = layout.sequence_parallel, layout.shard == "full" and layout.shard_group
        return layout.micro_batch_size, ranks_per_node, tensor, divided, sharded, data, stages

    def _layers_of(self, layout: Layout, ranks_per_node: int) -> dict[int, LayerCost]:
        key = self._layer_key(layout, ranks_per_node)
        if key not in self._layers:
            level = self.kind.level(ranks_per_node)
            self._layers[key] = {
                first: self.layer_costs.of(self.facts.layers[first], layout, ranks_per_node, level)
                for first in set(self._first)
            }
        return self._layers[key]

    def _make(self, layout: Layout, ranks_per_node: int) -> PipelineCost:
        level = self.kind.level(ranks_per_node)
        layers = self._layers_of(layout, ranks_per_node)
        contents = self._contents_of(self.split(layout))
        overlaps = self.can_overlap(ranks_per_node, level.threads)
        known = {content: self._stage(content, layers, layout, level, overlaps) for content in set(contents)}
        return PipelineCost([known[content] for content in contents], layout.stages)

    def can_overlap(self, ranks_per_node: int, threads: int) -> bool:
        """Whether something communicates while a rank computes: on a CPU that takes a core of its own."""
        return self.kind.device == "cuda" or ranks_per_node * threads < self.kind.num_cpus

    def averages_later(self, layout: Layout) -> bool:
        """Whether replicas exchange something after backward, and not each gradient while it runs."""
        is_traced = layout.pp > 1 and not self.facts.sequential
        later = layout.averages_later(overlap=self.software.overlaps_gradients, is_traced=is_traced)
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
        self, content: Content, layers: dict[int, LayerCost], layout: Layout, level: Level, overlaps: bool
    ) -> StageCost:
        own, device, overhead_s = self.software, self.kind.device, level.kernel_overhead_s
        # Two messages per pass between stages: one is received, one is sent.
        alone = own.pipeline_operations if layout.pp > 1 else 0.0
        around = alone + 2 * own.collective_operations if layout.pp > 1 else 0.0
        measured_s = 0.0  # of what is around a pass, whether host or device takes it
        if layout.pp > 1 and self.calibration is not None and self.calibration.staged is not None:
            around, measured_s = 0.0, self.calibration.staged.pass_s
        forward = backward = PassTime(host_s=around * overhead_s, device_s=0.0)
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
        calibration = self.calibration
        beside_s = own.micro_batch_operations * overhead_s
        if calibration is not None and calibration.micro_batch_s is not None:
            beside_s = calibration.micro_batch_s
        backward += PassTime(host_s=hooks * overhead_s + beside_s, device_s=0.0)
        inputs = PassTime(host_s=backward.host_s - weights.host_s, device_s=backward.device_s - weights.device_s)
        weights += PassTime(host_s=alone * overhead_s, device_s=0.0)
        first_gather = max(layers[first].gather_s for first, _ in content)
        again = messages * self.layer_costs.messages_backward
        return StageCost(
            forward_s=measured_s
            + forward.elapsed_s(device, self.software.sharpness)
            + own.idle_operations * overhead_s,
            backward_s=measured_s + backward.elapsed_s(device, self.software.sharpness),
            weight_s=weights.elapsed_s(device, self.software.sharpness),
            input_s=measured_s + inputs.elapsed_s(device, self.software.sharpness),
            forward_comm_s=self.layer_costs.exposed_s(forward, messages)
            + exposed_s(gathers, first_gather, forward.elapsed_s(device, self.software.sharpness), overlaps, device),
            backward_comm_s=self.layer_costs.exposed_s(backward, again)
            + exposed_s(gathers, first_gather, backward.elapsed_s(device, self.software.sharpness), overlaps, device),
            num_parameters=parameters,
            largest_parameters=largest,
            num_tensors=num_tensors,
            num_layers=num_layers,
            num_matmuls=num_matmuls,
            overhead_s=overhead_s,
            memory_bandwidth_bytes_per_s=level.memory_bandwidth_bytes_per_s,
            threads=level.threads,
        )
