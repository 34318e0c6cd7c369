"""What a run may have measured or not, as one table: whether it is known, else why not and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hpc_accel.report.judge import ranking
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord

NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A figure that a run may lack: where its reason stands, what is said without one, and the remedy."""

    name: str
    is_known: Callable[[RunRecord], bool]
    stored: tuple[str, ...]  # path of the reason, in the summary or (`is_planned`) in the plan's candidate
    default: str
    is_planned: bool = False
    remedy: str = ""
    stored_remedy: tuple[str, ...] = ()
    applies: Callable[[RunRecord], bool] = lambda run: True
    otherwise: str = ""  # why it does not apply
    needs: Quantity | None = None  # without which this cannot be known

    def reason(self, run: RunRecord) -> str | None:
        """Why the run lacks it; None where it is known."""
        if self.is_known(run):
            return None
        if not self.applies(run):
            return f"{NOT_APPLICABLE}: {self.otherwise}"
        if not run.summary and not self.is_planned:
            return f"the run is {run.status}"
        if self.needs and (reason := self.needs.reason(run)):
            return reason
        record = run.candidate if self.is_planned else run.summary
        return safe_json.text(record, *self.stored) or self.default.format(status=run.status)

    def remedy_for(self, run: RunRecord) -> str:
        """What the record says can be done, else what helps in general."""
        return safe_json.text(run.summary, *self.stored_remedy) or self.remedy.format(run_id=run.run_id)

    def is_gap(self, run: RunRecord) -> bool:
        """Whether it was not measured though it could have been, and nothing it needs is a gap already."""
        needed = self.needs is None or self.needs.is_known(run)
        return needed and self.applies(run) and not self.is_known(run)


def _has(*path: str) -> Callable[[RunRecord], bool]:
    """Whether the summary holds a number above 0 there."""
    return lambda run: safe_json.positive(run.summary, *path) is not None


def _knows(*path: str) -> Callable[[RunRecord], bool]:
    """Whether the summary holds a number there, 0 included."""
    return lambda run: safe_json.number(run.summary, *path) is not None


STEP_TIME = Quantity(
    name="step time",
    is_known=lambda run: ranking.step_time_ms(run) is not None,
    stored=("step_time_ms", "reason"),
    default="the run is {status}",
)
ENERGY = Quantity(
    name="energy",
    is_known=_has("energy", "energy_j"),
    stored=("energy", "reason"),
    default="the run left no energy record",
    remedy="run on nodes with counters (NVML, RAPL, pm_counters); `hpc-accel doctor` says what is missing here",
    stored_remedy=("energy", "remedy"),
)
COST = Quantity(
    name="cost",
    is_known=lambda run: ranking.cost(run) is not None,
    stored=("prediction", "cost_reason"),
    is_planned=True,
    default="the site has no price, or the run was not predicted",
    remedy="write the partition's price_per_node_hour into the site file",
    needs=STEP_TIME,
)
PREDICTION = Quantity(
    name="prediction",
    is_known=lambda run: safe_json.positive(run.candidate, "prediction", "step_time_ms") is not None,
    stored=("prediction", "step_time_reason"),
    is_planned=True,
    default="the plan holds no prediction for this run",
    remedy="probe and plan the study again",
)
COMMUNICATION = Quantity(
    name="exposed communication",
    is_known=_knows("phases_ms", "comm_exposed"),
    stored=("phases_reason", "comm_exposed"),
    default="the run left no time for it",
    remedy="use backend mpi4py, whose waits are timed",
    applies=lambda run: run.size("dp") * run.size("tp") > 1,
    otherwise="the layout has no collective communication",
)
OVERLAP = replace(
    COMMUNICATION,
    name="hidden communication",
    is_known=_knows("phases_ms", "comm_overlapped"),
    stored=("phases_reason", "comm_overlapped"),
    applies=lambda run: run.num_ranks > 1,
    otherwise="one rank has nobody to communicate with",
)
BUBBLE = Quantity(
    name="pipeline bubble",
    is_known=_knows("bubble_fraction"),
    stored=("bubble_reason",),
    default="the run left no time for it",
    remedy="use backend mpi4py, whose waits are timed",
    applies=lambda run: run.has_pipeline,
    otherwise="no pipeline",
)
BUBBLE_IDEAL = replace(
    BUBBLE,
    name="ideal pipeline bubble",
    is_known=_knows("bubble_ideal"),
    stored=(),
    default="no closed form for a schedule that splits backward",
)
FLOPS = Quantity(
    name="FLOPs per step",
    is_known=_has("flops", "per_step"),
    stored=("flops", "reason"),
    default="the run counted no FLOPs",
)
MFU = Quantity(
    name="FLOP utilisation",
    is_known=_has("flops", "mfu"),
    stored=("flops", "mfu_reason"),
    default="the run counted no FLOPs",
    remedy="probe the site again, with as many ranks per node as the runs have",
)
ENERGY_PHASES = Quantity(
    name="energy by phase",
    is_known=lambda run: bool(safe_json.mapping(run.summary, "energy", "by_phase_j")),
    stored=("energy", "phases_reason"),
    default="the run left no phases",
    remedy="measure longer: raise measure.steps",
    needs=ENERGY,
)
MEMORY = Quantity(
    name="peak memory",
    is_known=_has("peak_memory_bytes"),
    stored=("peak_memory_reason",),
    default="the run left no memory record",
    remedy="read runs/{run_id}/log.txt",
)
LOSS = Quantity(
    name="final loss",
    is_known=_knows("losses", "final"),
    stored=("losses", "reason"),
    default="the run left no loss",
    applies=lambda run: not run.is_inference,
    otherwise="inference has no loss",
)
PARITY = Quantity(
    name="parity",
    is_known=_knows("parity", "max_rel_err"),
    stored=("parity", "reason"),
    default="the run was not compared with the serial run",
)

REPORTED = (ENERGY, COST, PREDICTION, COMMUNICATION, BUBBLE, MFU, ENERGY_PHASES, MEMORY)
"""Those whose gaps the answer and the page list."""


def latency(percentile: str) -> Quantity:
    """A percentile of the latency at the highest listed rate."""
    return Quantity(
        name=f"latency {percentile}",
        is_known=_has("latency_ms", percentile),
        stored=("latency_ms", "reasons", percentile),
        default="the run left no latency",
        applies=lambda run: run.is_inference,
        otherwise="the run trains; inference runs measure latency",
    )


def factor(name: str, key: str) -> Quantity:
    """What a factor of the site turns joules into, where the site does not give that factor."""
    return Quantity(
        name=name,
        is_known=lambda run: False,
        stored=(),
        default=f"the site gives no {key}",
        remedy=f"write {key} into the site file",
        needs=ENERGY,
    )
