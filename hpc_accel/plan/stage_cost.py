"""A stage's times and sizes, those of a rank that holds several, and of all ranks what no schedule can hurry."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hpc_accel.plan.pipeline_simulation import PassTimes, RankWork, rank_works

OVERLAP_SLOWDOWN = 0.126
"""Compute slows by this share while a GPU also communicates (Galvatron, measured on A100)."""


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """One micro-batch on one rank of a stage, and what of the model the rank holds. Stages of one rank add up."""

    forward_s: float
    backward_s: float
    weight_s: float
    """Backward's gradients of weights, where the schedule runs them as a pass of their own."""
    input_s: float
    """The rest of backward, as such a schedule runs it."""
    forward_comm_s: float
    backward_comm_s: float
    num_parameters: float
    largest_parameters: float
    """Of one layer."""
    num_tensors: int
    num_layers: int
    """With parameters."""
    num_matmuls: int
    overhead_s: float
    """Of one operation."""
    memory_bandwidth_bytes_per_s: float
    threads: int

    @property
    def total_s(self) -> float:
        """Forward and backward of one micro-batch."""
        return self.forward_s + self.backward_s + self.forward_comm_s + self.backward_comm_s

    def __add__(self, other: StageCost) -> StageCost:
        added = {name: getattr(self, name) + getattr(other, name) for name in _ADDED}
        return replace(self, **added, largest_parameters=max(self.largest_parameters, other.largest_parameters))


_ADDED = (
    *("forward_s", "backward_s", "weight_s", "input_s", "forward_comm_s", "backward_comm_s"),
    *("num_parameters", "num_tensors", "num_layers", "num_matmuls"),
)


class PipelineCost:
    """All stages of a layout, and of ranks that hold the same each once.

    A deep model on many stages has few different ranks, and a search asks for their maximum thousands of times.
    """

    def __init__(self, stages: list[StageCost], held: list[list[int]]) -> None:
        self.all = stages
        # Of ranks that hold the same the last stays: its micro-batches have the longest way.
        last = {tuple([id(stages[i]) for i in mine]): mine for mine in held}
        self.held = list(last.values())
        self.ranks = [sum_of([stages[i] for i in mine]) for mine in self.held]
        self.times = PassTimes(
            forward_s=[stage.forward_s + stage.forward_comm_s for stage in stages],
            backward_s=[stage.backward_s + stage.backward_comm_s for stage in stages],
            input_s=[stage.input_s + stage.backward_comm_s for stage in stages],
            weight_s=[stage.weight_s for stage in stages],
        )
        self.after: dict[object, dict[str, float]] = {}
        """What comes after the pipeline, by what else it depends on."""
        self._works: dict[str, list[RankWork]] = {}

    def least_s(self, schedule: str, num_micro_batches: int, send_s: float) -> float:
        """Time the pipeline takes at least. `schedule` places stages on ranks as these are placed."""
        if schedule not in self._works:
            self._works[schedule] = rank_works(schedule, self.held, self.times)
        return max([work.least_s(num_micro_batches, send_s) for work in self._works[schedule]])


def sum_of(stages: list[StageCost]) -> StageCost:
    """What one rank with these stages does and holds."""
    total = stages[0]
    for stage in stages[1:]:
        total = total + stage
    return total


def exposed_s(total_s: float, first_s: float, compute_s: float, overlaps: bool, device: str) -> float:
    """What communication adds to computing beside it: what cannot hide, and what hiding costs.

    `first_s` of it has nothing to hide behind: the first message that computing waits for, or the last it causes.
    """
    if not overlaps:
        return total_s
    shown = max(min(first_s, total_s), total_s - compute_s)
    return shown + (OVERLAP_SLOWDOWN if device == "cuda" else 0.0) * (total_s - shown)
