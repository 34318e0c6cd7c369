"""What one run would cost: time of a step by part, peak memory, and energy and price where power and prices are known.

    step = pipeline(forward + backward + tensor-parallel all-reduces) + exposed data-parallel all-reduce + optimizer

Arithmetic on facts of the model and of the machine; imports no torch. What it cannot know is None, with the reason.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from hpc_accel.plan.hardware import Hardware
from hpc_accel.plan.memory import StageSize, peak_memory_bytes, stage_sizes
from hpc_accel.plan.network import Group, allreduce_s, send_s
from hpc_accel.plan.pipeline_simulation import SCHEDULES, step_time_s
from hpc_accel.plan.software import Software, torch_amp
from hpc_accel.plan.stages import Stage, Stages, StageTimes
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Precision
from hpc_accel.study.schema import Resources, Run
from hpc_accel.workloads.facts import ModelFacts

OVERLAP_SLOWDOWN = 0.126
"""Compute slows by this share while a GPU also communicates (Galvatron, measured on A100)."""
TENSORS_PER_LAUNCH = 50
"""On a GPU torch's optimizers update about this many tensors in one kernel."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a node costs, as the site says, and in which words ("EUR", "core-hours")."""

    per_node_hour: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted figures of one run. Energy and cost cover the run's timed steps, as the measured ones do."""

    step_time_ms: float | None
    step_time_reason: str | None = None
    parts_ms: dict[str, float] | None = None
    peak_memory_bytes: int
    energy_j: float | None = None
    energy_reason: str | None = None
    cost: float | None = None
    cost_reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plan.json holds it."""
        return asdict(self)


class StepModel:
    """Predicts steps of one model on one machine; what several layouts share is computed once."""

    def __init__(self, facts: ModelFacts, hardware: Hardware, precision: Precision, software: Software) -> None:
        self.facts = facts
        self.hardware = hardware
        self.kind = hardware.slowest
        self.precision = precision
        self.software = software
        self.stage_times = StageTimes(facts, hardware, precision, software)
        self.num_simulations = 0
        self._makespans: dict[tuple[Layout, Resources], float] = {}
        self._sizes: dict[tuple[object, ...], dict[StageSize, int]] = {}

    def unpredictable(self, layout: Layout, resources: Resources, device: str) -> str | None:
        """Why no time can be predicted, or None."""
        if device not in ("auto", self.kind.device):
            return f"the probe measured {self.kind.device}, the run uses {device}"
        if self.kind.matmul_flops_per_s.get(self.precision) is None:
            why = self.kind.matmul_flops_per_s_reason.get(self.precision, "not probed")
            return f"no {self.precision} matrix-product rate: {why}"
        if layout.pp > 1 and layout.schedule not in SCHEDULES:
            return f"schedule {layout.schedule} is not simulated"
        network = self.hardware.network
        if resources.num_nodes > 1 and network.inter_node is None:
            return f"no network between nodes: {network.inter_node_reason}"
        if layout.num_ranks > 1 and network.intra_node is None and resources.ranks_per_node > 1:
            return f"no network within a node: {network.intra_node_reason}"
        return None

    def bound_s(self, layout: Layout, resources: Resources) -> float:
        """At most what `parts_s` adds up to, without simulating the pipeline; equal to it with one stage."""
        stages = self.stage_times.of(layout, resources)
        rest = self._after_pipeline(layout, resources, stages)
        return self._pipeline_bound_s(layout, stages) + sum(rest.values())

    def parts_s(self, layout: Layout, resources: Resources) -> dict[str, float]:
        """The step by part; they add up to the step."""
        stages = self.stage_times.of(layout, resources)
        num = layout.accumulation_steps
        forward = num * sum(stage.forward_s for stage in stages.all) / layout.pp
        backward = num * sum(stage.backward_s for stage in stages.all) / layout.pp
        tensor = num * sum(stage.forward_comm_s + stage.backward_comm_s for stage in stages.all) / layout.pp
        bubble = 0.0
        if layout.pp > 1:
            makespan = max(self._makespan_s(layout, resources, stages), self._crowded_s(layout, resources))
            bubble = makespan - forward - backward - tensor
        rest = self._after_pipeline(layout, resources, stages)
        return {
            "forward": forward,
            "backward": backward,
            "communication_exposed": tensor + rest["communication"],
            "bubble": bubble,
            "optimizer": rest["optimizer"],
            "other": rest["other"],
        }

    def peak_memory_bytes(self, layout: Layout) -> int:
        """Of the rank that needs most."""
        process = 0
        if self.kind.device == "cpu":
            process = (self.kind.process_memory_bytes or 0) + int(self.software.process_bytes)
        key = (layout.num_stages, layout.tp, layout.split)
        if key not in self._sizes:
            self._sizes[key] = stage_sizes(self.facts, self.stage_times.split(layout), layout.tp)
        sample_bytes = self.facts.sample_bytes
        return peak_memory_bytes(
            self._sizes[key], layout, self.software, sample_bytes=sample_bytes, process_bytes=process
        )

    def _makespan_s(self, layout: Layout, resources: Resources, stages: Stages) -> float:
        """Simulated once: a search compares layouts first and reports the best ones after."""
        if (layout, resources) not in self._makespans:
            self.num_simulations += 1
            self._makespans[layout, resources] = step_time_s(
                layout.schedule or "gpipe",
                layout.accumulation_steps,
                [stage.forward_s + stage.forward_comm_s for stage in stages.all],
                [stage.backward_s + stage.backward_comm_s for stage in stages.all],
                self._boundary_s(layout, resources),
            )
        return self._makespans[layout, resources]

    def _pipeline_bound_s(self, layout: Layout, stages: Stages) -> float:
        """A stage's own work, and one micro-batch's way to it and back through the stages before it."""
        num = layout.accumulation_steps
        return max(before + num * stage.total_s for stage, before in stages.different.items())

    def _crowded_s(self, layout: Layout, resources: Resources) -> float:
        """A CPU with more ranks than cores: the busiest rank's work while all of them compute at once."""
        crowded = self.stage_times.of(layout, resources, crowded=True)
        return layout.accumulation_steps * max(stage.total_s for stage in crowded.different)

    def _boundary_s(self, layout: Layout, resources: Resources) -> float:
        """Message between neighbouring stages: the largest cut decides the beat."""
        group = Group(size=layout.pp, stride=layout.dp * layout.tp, ranks_per_node=resources.ranks_per_node)
        ends = [sum(self.stage_times.split(layout)[: i + 1]) for i in range(layout.pp - 1)]
        elements = max(self.facts.layers[end - 1].output_elements_per_sample for end in ends)
        num_bytes = elements * layout.micro_batch_size * self.software.boundary_bytes
        return send_s(self.hardware.network, group, num_bytes) or 0.0

    def _after_pipeline(self, layout: Layout, resources: Resources, stages: Stages) -> dict[str, float]:
        overhead = stages.all[0].overhead_s
        samples = layout.micro_batch_size * layout.accumulation_steps
        return {
            "communication": max(self._gradients_s(layout, resources, stage) for stage in stages.different),
            "optimizer": max(self._optimizer_s(stage) for stage in stages.different),
            "other": (self.software.step_operations + self.software.sample_operations * samples) * overhead,
        }

    def _optimizer_s(self, stage: Stage) -> float:
        tensors = stage.num_tensors
        launches = math.ceil(tensors / TENSORS_PER_LAUNCH) if self.kind.device == "cuda" else tensors
        overhead = launches * self.software.optimizer_operations_per_tensor * stage.overhead_s
        traffic = stage.num_parameters * self.software.optimizer_traffic_bytes / stage.memory_bandwidth_bytes_per_s
        return max(overhead, traffic) if self.kind.device == "cuda" else overhead + traffic

    def _gradients_s(self, layout: Layout, resources: Resources, stage: Stage) -> float:
        """All-reduce of a stage's gradients, less what backward of the last micro-batch hides."""
        num_bytes = stage.num_parameters * self.software.gradient_bytes
        if layout.dp == 1 or not num_bytes:
            return 0.0
        group = Group(size=layout.dp, stride=layout.tp, ranks_per_node=resources.ranks_per_node)
        overhead = self.software.collective_operations * stage.overhead_s

        def reduce_s(size: float) -> float:
            return (allreduce_s(self.hardware.network, group, size) or 0.0) + overhead

        bucket = self.software.gradient_bucket_bytes
        full, tail = divmod(num_bytes, bucket)
        total = full * reduce_s(bucket) + (reduce_s(tail) if tail else 0.0)
        spare_core = resources.ranks_per_node * stage.threads < self.kind.num_cpus
        if not self.software.overlaps_gradients or (self.kind.device == "cpu" and not spare_core):
            # Without a core of its own, the communicating thread takes its time from the computing one.
            return total
        last = reduce_s(min(num_bytes, bucket))
        exposed = max(last, total - stage.backward_s)
        slowdown = OVERLAP_SLOWDOWN if self.kind.device == "cuda" else 0.0
        return exposed + slowdown * (total - exposed)


def predict(
    run: Run,
    facts: ModelFacts,
    hardware: Hardware,
    *,
    software: Software | None = None,
    prices: Prices | None = None,
    model: StepModel | None = None,
) -> Prediction:
    """Everything predicted of `run`. `model` may carry what earlier predictions computed for the same workload."""
    software = software or torch_amp(run.workload.optimizer, run.recipe, run.backend)
    model = model or StepModel(facts, hardware, run.recipe.precision, software)
    memory = model.peak_memory_bytes(run.layout)
    reason = model.unpredictable(run.layout, run.resources, run.device)
    if reason is None and run.recipe.clocks:
        reason = f"the probe measured without {', '.join(run.recipe.clocks)}"
    if reason is None and (run.recipe.options or run.layout.shard != "none" or run.layout.sequence_parallel):
        reason = f"not modelled: {run.label}"
    if reason is not None:
        return Prediction(
            step_time_ms=None,
            step_time_reason=reason,
            peak_memory_bytes=memory,
            energy_reason=f"no time predicted: {reason}",
            cost_reason=f"no time predicted: {reason}",
        )
    parts = model.parts_s(run.layout, run.resources)
    step_s = sum(parts.values())
    window_s = step_s * run.measure.steps
    num_nodes, power_w = run.resources.num_nodes, model.kind.power_w
    return Prediction(
        step_time_ms=step_s * 1e3,
        parts_ms={name: part * 1e3 for name, part in parts.items()},
        peak_memory_bytes=memory,
        energy_j=power_w * num_nodes * window_s if power_w else None,
        energy_reason=None if power_w else model.kind.power_w_reason or "the probe read no power sensor",
        cost=prices.per_node_hour * num_nodes * window_s / 3600 if prices else None,
        cost_reason=None if prices else "the site gives no price",
    )
