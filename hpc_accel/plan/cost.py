"""What one step would cost: its time by part, and the peak memory of the fullest rank.

    step = pipeline(forward + backward + messages within them) + exposed messages between replicas + optimizer

Arithmetic on facts of the model and of the machine; imports no torch. What it cannot know is None, with the reason.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

from hpc_accel.plan.calibration import Calibration
from hpc_accel.plan.data_parallel import Replicas
from hpc_accel.plan.layouts import MemoryVariants
from hpc_accel.plan.links import on_backend
from hpc_accel.plan.memory import RankSize, held_bytes, peak_memory_bytes, rank_parts, rank_sizes
from hpc_accel.plan.network import Group, allreduce_s, group_of, send_s
from hpc_accel.plan.pipeline_cost import StageTimes
from hpc_accel.plan.pipeline_simulation import step_time_s
from hpc_accel.plan.predictable import uncertain, unpredictable
from hpc_accel.plan.software import Software
from hpc_accel.plan.stage_cost import PipelineCost
from hpc_accel.probe.hardware import Hardware
from hpc_accel.study.layout import V_SHAPED, Layout
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.recipe import Precision
from hpc_accel.study.run import Backend, Resources


class StepModel:
    """Predicts steps of one model on one machine; what several layouts share is computed once."""

    def __init__(
        self,
        facts: ModelFacts,
        hardware: Hardware,
        precision: Precision,
        software: Software,
        backend: Backend | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """`backend` carries the messages; without one they take the network's own time.

        `calibration` is what layers of this model took on this machine.
        """
        self.facts = facts
        self.hardware, self._unmeasured = on_backend(hardware, backend)
        self.kind = hardware.slowest
        self.precision = precision
        self.software = software
        self.backend = backend
        self.calibration = calibration
        self.stage_times = StageTimes(facts, self.hardware, precision, software, calibration)
        self.num_simulations = 0
        self._makespans: dict[tuple[object, ...], float] = {}
        self._sizes: dict[tuple[object, ...], dict[RankSize, int]] = {}
        self._works: dict[tuple[object, ...], float] = {}
        self._quick: dict[tuple[object, ...], tuple[float, float]] = {}
        self._sent: dict[tuple[Group, int, int], tuple[float, float]] = {}
        self._cuts: dict[tuple[int, ...], int] = {}

    def unpredictable(self, layout: Layout, resources: Resources, device: str) -> str | None:
        """Why no time can be predicted, or None."""
        return unpredictable(self.hardware, self.precision, layout, resources, device)

    def uncertain(self, layout: Layout, resources: Resources) -> str | None:
        """Why a predicted time is good for an order at most, or None."""
        own = self.software
        return uncertain(self.calibration, self.precision, own.recompute, own.options, layout, resources)

    def power_w(self, layout: Layout, resources: Resources) -> float | None:
        """Of one node: that of measured steps of this model, else that of the probe's busiest part."""
        return self.stage_times.measured_power_w(layout, resources) or self.kind.power_w

    def notes(self, layout: Layout) -> tuple[str, ...]:
        """What predictions of `layout` rest on that was not measured for it."""
        return (self._unmeasured,) if self._unmeasured and layout.num_ranks > 1 else ()

    def bound_s(self, layout: Layout, resources: Resources) -> float:
        """At most what `parts_s` adds up to, without simulating the pipeline; equal to it without stages."""
        stages = self.stage_times.of(layout, resources)
        rest = self._after_pipeline(layout, resources, stages)
        return self._pipeline_bound_s(layout, resources, stages) + sum(rest.values())

    def quick_bound_s(self, group: MemoryVariants, resources: Resources) -> float:
        """At most the `bound_s` of every layout of `group`, from sums over the model's layers.

        With one stage a rank the best cut gives later stages less, because their micro-batches have a longer way.
        """
        layout = group.whole
        num, pp, looped = layout.accumulation_steps, layout.pp, layout.stages_per_rank > 1
        key = (layout.dp, pp, layout.tp, layout.micro_batch_size, num, looped, resources.ranks_per_node)
        if key not in self._quick:
            work = self._least_work_s(group, resources)
            pipeline = num * work / pp if looped else work / (1 - (1 - 1 / num) ** pp)
            self._quick[key] = pipeline, self._least_data_parallel_s(group, resources)
        pipeline, sent = self._quick[key]
        return max(pipeline * self.slowdown(layout), sent)

    def _least_work_s(self, group: MemoryVariants, resources: Resources) -> float:
        """Of one micro-batch through all layers, with the sequence whole or divided, whichever is less."""
        layout, per_node = group.whole, resources.ranks_per_node
        tensor = group_of(layout, "tp", per_node) if layout.tp > 1 else None
        crossing = layout.pp if self.software.ring_wait_s else layout.pp > 1
        data = group_of(layout, "dp", per_node) if self.software.synchronises_batch_norm and layout.dp > 1 else None
        key = (tensor, layout.micro_batch_size, per_node, crossing, data)
        if key not in self._works:
            self._works[key] = min(self.stage_times.least_work_s(one, resources) for one in group.divided())
        return self._works[key]

    def _least_data_parallel_s(self, variants: MemoryVariants, resources: Resources) -> float:
        """What replicas send at least, hidden or not: gradients in whole buckets, or sharded parameters each pass."""
        layout = variants.whole
        if layout.dp == 1 or self.software.average_every > 1 or self.software.powersgd_rank is not None:
            return 0.0
        if self.calibration is not None and self.calibration.replicated:
            return 0.0  # replicas were measured, and may take less than composed
        group = group_of(layout, "dp", resources.ranks_per_node)
        key = (group, layout.tp, layout.pp)
        if key not in self._sent:
            self._sent[key] = self._reduced_s(layout, group), self._gathered_s(variants, group)
        reduced, gathered = self._sent[key]
        return min(reduced, 2 * layout.accumulation_steps * gathered)

    def _reduced_s(self, layout: Layout, group: Group) -> float:
        own, parameters = self.software, self.stage_times.num_parameters(layout.tp) / layout.pp
        bucket = own.gradient_bucket_bytes * (own.gradient_wire_bytes or own.gradient_bytes) / own.gradient_bytes
        num_buckets = parameters * own.gradient_bytes // own.gradient_bucket_bytes
        return num_buckets * (allreduce_s(self.hardware.network, group, bucket) or 0.0) if num_buckets else 0.0

    def _gathered_s(self, variants: MemoryVariants, group: Group) -> float:
        """In one pass, over as few ranks as any variant gathers from."""
        shards = replace(group, size=variants.node_group or group.size)
        return self.stage_times.gathers_s(variants.whole, shards) / variants.whole.pp

    def parts_s(self, layout: Layout, resources: Resources) -> dict[str, float]:
        """The step by part; they add up to the step."""
        stages = self.stage_times.of(layout, resources)
        each = layout.accumulation_steps / layout.pp
        split = layout.splits_backward and layout.schedule != "dualpipev"
        forward = each * sum(stage.forward_s for stage in stages.all)
        backward = each * sum(stage.input_s + stage.weight_s if split else stage.backward_s for stage in stages.all)
        tensor = each * sum(stage.forward_comm_s + stage.backward_comm_s for stage in stages.all)
        bubble = 0.0
        if layout.pp > 1:
            bubble = self._makespan_s(layout, resources, stages) - forward - backward - tensor
        rest = self._after_pipeline(layout, resources, stages)
        return {
            "forward": forward,
            "backward": backward,
            "communication_exposed": tensor + rest["communication"],
            "bubble": bubble,
            "optimizer": rest["optimizer"],
            "other": rest["other"],
        }

    def peak_memory_bytes(self, layout: Layout, rank: int | None = None) -> int:
        """Of the pipeline rank that needs most, or of that one."""
        process = 0
        if self.kind.device == "cpu":
            process = (self.kind.process_memory_bytes or 0) + int(self.software.process_bytes)
        sample_bytes = self.facts.sample_bytes
        return peak_memory_bytes(
            self._sizes_of(layout, rank),
            layout,
            self.software,
            sample_bytes=sample_bytes,
            process_bytes=process,
            on_gpu=self.kind.device == "cuda",
        )

    def memory_parts(self, layout: Layout) -> tuple[int, dict[str, float]]:
        """The pipeline rank that needs most, and its bytes by what they are; they add up to the peak."""
        on_gpu = self.kind.device == "cuda"
        each = {
            rank: rank_parts(size, rank, layout, self.software, on_gpu=on_gpu)
            for size, rank in self._sizes_of(layout, None).items()
        }
        fullest = max(each, key=lambda rank: sum(each[rank].values()))
        batch = layout.micro_batch_size * layout.accumulation_steps * self.facts.sample_bytes
        more = {"samples": float(batch), "the process": 0.0}
        if not on_gpu:
            more["the process"] = (self.kind.process_memory_bytes or 0) + self.software.process_bytes
        return fullest, each[fullest] | more

    def held_bytes(self, layout: Layout, rank: int | None = None) -> float:
        """Between steps, of the pipeline rank that holds most, or of that one."""
        return max(held_bytes(size, layout, self.software) for size in self._sizes_of(layout, rank))

    def _sizes_of(self, layout: Layout, rank: int | None) -> dict[RankSize, int]:
        placed = "v" if layout.schedule in V_SHAPED else layout.stages_per_rank
        key = (layout.pp, placed, layout.tp, layout.sequence_parallel, layout.split, rank)
        if key not in self._sizes:
            self._sizes[key] = rank_sizes(
                self.facts, self.stage_times.split(layout), layout, self.software.recompute, rank
            )
        return self._sizes[key]

    def _makespan_s(self, layout: Layout, resources: Resources, stages: PipelineCost) -> float:
        """Simulated once for all layouts that differ only in what comes after the pipeline."""
        schedule, num = layout.schedule or "gpipe", layout.accumulation_steps
        send = self.boundary_s(layout, resources)
        key = (schedule, layout.pp, num, send, tuple(stages.times.forward_s), tuple(stages.times.backward_s))
        if key not in self._makespans:
            self.num_simulations += 1
            self._makespans[key] = step_time_s(schedule, layout.pp, num, stages.times, send) * self.slowdown(layout)
        return self._makespans[key]

    def slowdown(self, layout: Layout) -> float:
        """Of its pipeline over the simulated one."""
        return self.software.schedule_slowdown.get(layout.schedule or "", 1.0)

    def _pipeline_bound_s(self, layout: Layout, resources: Resources, stages: PipelineCost) -> float:
        send = self.boundary_s(layout, resources) if layout.pp > 1 else 0.0
        least = stages.least_s(layout.schedule or "gpipe", layout.accumulation_steps, send)
        return least * self.slowdown(layout)

    def boundary_s(self, layout: Layout, resources: Resources) -> float:
        """Message between neighbouring stages: the largest cut decides the beat."""
        split = self.stage_times.split(layout)
        if split not in self._cuts:
            ends = list(accumulate(split))[:-1]
            self._cuts[split] = max(self.facts.layers[end - 1].output_elements_per_sample for end in ends)
        num_bytes = self._cuts[split] * layout.micro_batch_size * self.software.boundary_bytes
        group = group_of(layout, "pp", resources.ranks_per_node)
        return send_s(self.hardware.network, group, num_bytes) or 0.0

    def _after_pipeline(self, layout: Layout, resources: Resources, stages: PipelineCost) -> dict[str, float]:
        key = (
            layout.dp,
            layout.shard,
            layout.shard_ranks,
            layout.accumulation_steps,
            layout.order,
            resources.ranks_per_node,
        )
        if key not in stages.after:
            stages.after[key] = self._after_s(layout, resources, stages)
        return stages.after[key]

    def _after_s(self, layout: Layout, resources: Resources, stages: PipelineCost) -> dict[str, float]:
        first = stages.ranks[0]
        replicas = Replicas(
            layout,
            group_of(layout, "dp", resources.ranks_per_node),
            self.hardware.network,
            self.software,
            device=self.kind.device,
            overlaps=self.stage_times.can_overlap(resources.ranks_per_node, first.threads),
            later=self.stage_times.averages_later(layout),
            precision=self.precision,
            calibration=self.calibration,
            num_tensors=sum(layer.num_parameter_tensors for layer in self.facts.layers),
        )
        return {
            "communication": max(replicas.communication_s(rank) for rank in stages.ranks)
            + replicas.outputs_s(self.facts, first),
            "optimizer": max(replicas.optimizer_s(rank) for rank in stages.ranks),
            "other": self._other_s(layout, resources, stages),
        }

    def _other_s(self, layout: Layout, resources: Resources, stages: PipelineCost) -> float:
        """Samples fetched and collated, and what a step costs by itself.

        Workers fetch while ranks compute if they have cores to do so; then only what they are slower by is left.
        """
        own, first = self.software, stages.ranks[0]
        samples = layout.micro_batch_size * layout.accumulation_steps
        fetching = own.sample_operations * samples * first.overhead_s
        if self.calibration is not None and self.calibration.samples is not None:
            fetching = layout.accumulation_steps * self.calibration.samples(layout.micro_batch_size)
        cores = resources.ranks_per_node * (first.threads + own.data_workers)
        if own.data_workers and cores <= self.kind.num_cpus:
            computing = layout.accumulation_steps * min(rank.total_s for rank in stages.ranks)
            fetching = max(0.0, fetching / own.data_workers - computing)
        beside = own.step_operations * first.overhead_s
        if self.calibration is not None and self.calibration.step_s is not None:
            beside = self.calibration.step_s
        return beside + fetching
