"""What replicas add to a step after the pipeline: their gradients' way to each other, and the optimizer.

shard none        gradients all-reduced in buckets while backward runs (DistributedDataParallel)
shard optimizer   the same; each rank updates its part of the parameters and sends it (ZeRO-1)
shard full        gradients reduce-scattered layer by layer; each rank updates its shards (FSDP2). The all-gathers
                  of parameters happen in every pass and are in `stages`.
gather_outputs    the outputs of all replicas gathered for the loss, and what comes back scattered
average_every k   no gradients; every k steps parameters are all-reduced (local SGD)

A schedule that splits backward has no moment at which DistributedDataParallel would see a gradient finished, so there,
as without overlap, nothing is sent until all of them are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hpc_accel.plan.calibration import Calibration
from hpc_accel.plan.network import Group, allreduce_s, gather_s, group_of
from hpc_accel.plan.software import Software
from hpc_accel.plan.stage_cost import StageCost, exposed_s
from hpc_accel.probe.hardware import Network
from hpc_accel.study.layout import Layout
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.recipe import Precision

TENSORS_PER_LAUNCH = 50
"""On a GPU torch's optimizers update about this many tensors in one kernel."""
FLATTENING_PASSES = 6
"""Times what is averaged after backward is read or written: copied together, divided, copied back."""
POWERSGD_PASSES = 8
"""Times PowerSGD reads or writes a gradient: error added and kept, two products with it, result written."""
POWERSGD_OPERATIONS = 10
"""Operations per matrix: two products, orthogonalisation, product of the two, error."""


class Replicas:
    """The data-parallel group of one layout on one kind of node."""

    def __init__(
        self,
        layout: Layout,
        group: Group,
        network: Network,
        software: Software,
        *,
        device: str,
        overlaps: bool,
        later: bool,
        precision: Precision,
        calibration: Calibration | None = None,
        num_tensors: int = 0,
    ) -> None:
        """`overlaps`: something can communicate while a rank computes. `later`: it has nothing to before the end.

        `num_tensors` are the whole model's parameter tensors.
        """
        self.layout = layout
        self.group = group
        self.network = network
        self.software = software
        self.device = device
        self.later = later
        self.calibration = calibration
        self.precision = precision
        self.num_tensors = num_tensors
        self.overlaps = overlaps and software.overlaps_gradients and not later

    def communication_s(self, rank: StageCost) -> float:
        """Of one step, less what backward of the last micro-batch hides. `rank` is all stages of one rank."""
        if self.layout.dp == 1 or not rank.num_parameters:
            return 0.0
        if self.software.average_every > 1:
            whole = self._buckets(rank, self._all_reduce)[0] + self._flattened_s(rank)
            return whole / self.software.average_every
        if self.software.powersgd_rank is not None:
            return self._powersgd_s(rank) + self._updated_s(rank)
        reduced = self._scattered_s(rank) if self.layout.shard == "full" else self._reduced_s(rank)
        copied = self._flattened_s(rank) if self.later else 0.0
        exchanged = reduced + copied + self._recoded_s(rank) + self._updated_s(rank)
        return max(0.0, exchanged + self._measured_more_s(rank))

    def outputs_s(self, facts: ModelFacts, rank: StageCost) -> float:
        """Of one step, for a loss of all replicas' outputs: nothing hides it, as backward begins with its result."""
        if not facts.gathers_outputs or self.layout.dp == 1:
            return 0.0
        batch = self.layout.dp * self.layout.micro_batch_size
        num_bytes = facts.layers[-1].output_elements_per_sample * batch * self.software.gradient_bytes
        overhead = self.software.collective_operations * rank.overhead_s
        return 3 * overhead + 2 * self._gather(num_bytes)  # outputs, targets, and backward's gradients of outputs

    def optimizer_s(self, rank: StageCost) -> float:
        """Of one step; sharded, each rank updates its part."""
        own = self.software
        parameters, tensors = rank.num_parameters, rank.num_tensors
        if self.layout.shard != "none":
            parameters /= self.layout.dp if self.layout.shard == "optimizer" else self.layout.shard_group
        if self.layout.shard == "optimizer":  # whole tensors are divided among ranks
            tensors = math.ceil(tensors / self.layout.dp)
        launches = math.ceil(tensors / TENSORS_PER_LAUNCH) if self.device == "cuda" else tensors
        each = 1 if own.fused_optimizer else own.optimizer_operations_per_tensor
        if own.fused_optimizer and self.device == "cpu":
            launches = 1
        elif self.layout.shard == "full" and self.device == "cpu":
            each += own.sharded_update_operations
        overhead = launches * each * rank.overhead_s
        traffic = parameters * own.optimizer_traffic_bytes / rank.memory_bandwidth_bytes_per_s
        ratios = self.calibration.optimizer_ratios if self.calibration is not None else {}
        ratio = ratios.get("fused" if own.fused_optimizer else "plain", 1.0)
        return ratio * (max(overhead, traffic) if self.device == "cuda" else overhead + traffic)

    def _all_reduce(self, num_bytes: float) -> float:
        return allreduce_s(self.network, self.group, num_bytes) or 0.0

    def _gather(self, num_bytes: float) -> float:
        return gather_s(self.network, self.group, num_bytes) or 0.0

    @property
    def _wire_bytes(self) -> float:
        return self.software.gradient_wire_bytes or self.software.gradient_bytes

    def _buckets(self, rank: StageCost, time_of: Callable[[float], float]) -> tuple[float, float]:
        """Time of all buckets, and of one. Buckets are filled by size in memory, and sent at their size on the wire."""
        overhead = self.software.collective_operations * rank.overhead_s
        ratio = self._wire_bytes / self.software.gradient_bytes
        bucket, num_bytes = self.software.gradient_bucket_bytes, rank.num_parameters * self.software.gradient_bytes
        full, tail = divmod(num_bytes, bucket)
        total = full * (time_of(bucket * ratio) + overhead) + (time_of(tail * ratio) + overhead if tail else 0.0)
        return total, time_of(min(num_bytes, bucket) * ratio) + overhead

    def _reduced_s(self, rank: StageCost) -> float:
        total, last = self._buckets(rank, self._all_reduce)
        return exposed_s(total, last, rank.backward_s, self.overlaps, self.device)

    def _scattered_s(self, rank: StageCost) -> float:
        """A reduce-scatter for each layer, timed as if layers were equally large; in groups, shards are then summed."""
        overhead, per_node = self.software.collective_operations * rank.overhead_s, self.group.ranks_per_node
        each = rank.num_parameters / rank.num_layers * self._wire_bytes
        once = (gather_s(self.network, group_of(self.layout, "shards", per_node), each) or 0.0) + overhead
        if self.layout.shard_ranks is not None:
            replicas = group_of(self.layout, "replicas", per_node)
            once += (allreduce_s(self.network, replicas, each / self.layout.shard_ranks) or 0.0) + overhead
        total = rank.num_layers * once
        return exposed_s(total, total / rank.num_layers, rank.backward_s, self.overlaps, self.device)

    def _measured_more_s(self, rank: StageCost) -> float:
        """What such replicas took more than composed, where that was measured."""
        if self.calibration is None or self.later or not self.num_tensors:
            return 0.0
        more = self.calibration.replicas(self.layout.shard, self.precision)
        return more(self.layout.accumulation_steps, rank.num_tensors / self.num_tensors) if more else 0.0

    def _flattened_s(self, rank: StageCost) -> float:
        if not self.software.flattens_gradients:
            return 0.0
        moved = FLATTENING_PASSES * self.software.gradient_bytes
        return rank.num_parameters * moved / rank.memory_bandwidth_bytes_per_s

    def _recoded_s(self, rank: StageCost) -> float:
        """Gradients written for the wire and read from it, where that is another precision."""
        if self.software.gradient_wire_bytes is None:
            return 0.0
        moved = 2 * (self.software.gradient_bytes + self.software.gradient_wire_bytes)
        return rank.num_parameters * moved / rank.memory_bandwidth_bytes_per_s

    def _powersgd_s(self, rank: StageCost) -> float:
        """Two thin matrices a gradient instead of itself, taken as equal squares; vectors are sent as they are."""
        own = self.software
        width = math.sqrt(rank.num_parameters / rank.num_matmuls)
        thin = rank.num_matmuls * (own.powersgd_rank or 1) * width * own.gradient_bytes
        vectors = max(0, rank.num_tensors - rank.num_matmuls) * width * own.gradient_bytes
        entering = 3 * own.collective_operations * rank.overhead_s
        sent = 2 * self._all_reduce(thin) + self._all_reduce(vectors) + entering
        passes = POWERSGD_PASSES * rank.num_parameters * own.gradient_bytes / rank.memory_bandwidth_bytes_per_s
        return sent + passes + POWERSGD_OPERATIONS * rank.num_matmuls * rank.overhead_s

    def _updated_s(self, rank: StageCost) -> float:
        """ZeRO-1: every tensor is sent by the rank that updated it, after the optimizer step, and nothing hides it."""
        if self.layout.shard != "optimizer":
            return 0.0
        if self.software.updates_coalesced:
            return self._gather(rank.num_parameters * self.software.parameter_bytes)
        each = rank.num_parameters / rank.num_tensors * self.software.parameter_bytes
        overhead = self.software.collective_operations * rank.overhead_s
        return rank.num_tensors * (self._gather(each) + overhead)
