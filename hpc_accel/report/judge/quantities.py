"""What a run may have measured or not, as one table: whether it is known, else why not and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hpc_accel.record import Figure
from hpc_accel.record.figure import Estimate, Milliseconds, OwnUnit
from hpc_accel.report.judge import inference, ranking
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord

NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A figure that a run may lack: where it stands, whether it applies, and what helps in general."""

    name: str
    figure: Callable[[RunRecord], Figure]
    remedy: str = ""
    applies: Callable[[RunRecord], bool] = lambda run: True
    otherwise: str = ""  # why it does not apply
    needs: Quantity | None = None  # without which this cannot be known

    def is_known(self, run: RunRecord) -> bool:
        """Whether the run has it."""
        return self.figure(run).value is not None

    def reason(self, run: RunRecord) -> str | None:
        """Why the run lacks it; None where it is known."""
        figure = self.figure(run)
        if figure.value is not None:
            return None
        if not self.applies(run):
            return f"{NOT_APPLICABLE}: {self.otherwise}"
        return (self.needs.reason(run) if self.needs else None) or figure.reason

    def remedy_for(self, run: RunRecord) -> str:
        """What the record says can be done, else what helps in general."""
        return self.figure(run).remedy or self.remedy.format(run_id=run.run_id)

    def is_gap(self, run: RunRecord) -> bool:
        """Whether it was not measured though it could have been, and nothing it needs is a gap already."""
        needed = self.needs is None or self.needs.is_known(run)
        return needed and self.applies(run) and not self.is_known(run)


def _planned(run: RunRecord, value: float | None, reason_key: str, default: str) -> Figure:
    return OwnUnit.of(value, safe_json.text(run.candidate, "prediction", reason_key) or default)


def _cost(run: RunRecord) -> Figure:
    cost = ranking.cost(run)
    default = "the site has no price, or the run was not predicted"
    return _planned(run, cost.value if cost else None, "cost_reason", default)


def _prediction(run: RunRecord) -> Figure:
    step_time_ms = safe_json.positive(run.candidate, "prediction", "step_time_ms")
    return _planned(run, step_time_ms, "step_time_reason", "the plan holds no prediction for this run")


def _energy_phases(run: RunRecord) -> Figure:
    phases = run.summary.energy.phases
    return OwnUnit.of(len(phases.by_phase_j) or None, phases.reason)


STEP_TIME = Quantity(name="step time", figure=lambda run: run.summary.step_time_ms)
ENERGY = Quantity(
    name="energy",
    figure=lambda run: run.summary.energy.figure,
    remedy="run on nodes with counters (NVML, RAPL, pm_counters); `hpc-accel doctor` says what is missing here",
)
COST = Quantity(
    name="cost",
    figure=_cost,
    remedy="write the partition's price_per_node_hour into the site file",
    needs=STEP_TIME,
)
PREDICTION = Quantity(name="prediction", figure=_prediction, remedy="probe and plan the study again")
COMMUNICATION = Quantity(
    name="exposed communication",
    figure=lambda run: run.summary.phases_ms.comm_exposed,
    remedy="use backend mpi4py, whose waits are timed",
    applies=lambda run: run.size("dp") * run.size("tp") > 1,
    otherwise="the layout has no collective communication",
)
OVERLAP = Quantity(
    name="hidden communication",
    figure=lambda run: run.summary.phases_ms.comm_overlapped,
    remedy=COMMUNICATION.remedy,
    applies=lambda run: run.num_ranks > 1,
    otherwise="one rank has nobody to communicate with",
)
BUBBLE = Quantity(
    name="pipeline bubble",
    figure=lambda run: run.summary.bubble_fraction,
    remedy=COMMUNICATION.remedy,
    applies=lambda run: run.has_pipeline,
    otherwise="no pipeline",
)
BUBBLE_IDEAL = Quantity(
    name="ideal pipeline bubble",
    figure=lambda run: run.summary.bubble_ideal,
    applies=BUBBLE.applies,
    otherwise=BUBBLE.otherwise,
)
FLOPS = Quantity(name="FLOPs per step", figure=lambda run: run.summary.flops.per_step)
MFU = Quantity(
    name="FLOP utilisation",
    figure=lambda run: run.summary.flops.mfu,
    remedy="probe the site again, with as many ranks per node as the runs have",
)
ENERGY_PHASES = Quantity(
    name="energy by phase", figure=_energy_phases, remedy="measure longer: raise measure.steps", needs=ENERGY
)
MEMORY = Quantity(
    name="peak memory",
    figure=lambda run: run.summary.memory.peak_memory_bytes,
    remedy="read runs/{run_id}/log.txt",
)
LOSS = Quantity(
    name="final loss",
    figure=lambda run: run.summary.losses.final,
    applies=lambda run: not run.is_inference,
    otherwise="inference has no loss",
)
PARITY = Quantity(name="parity", figure=lambda run: run.summary.parity.figure)

REPORTED = (ENERGY, COST, PREDICTION, COMMUNICATION, BUBBLE, MFU, ENERGY_PHASES, MEMORY)
"""Those whose gaps the answer and the page list."""


def latency(percentile: str) -> Quantity:
    """A percentile of the latency at the highest listed rate."""

    def figure(run: RunRecord) -> Milliseconds:
        rates = inference.rates(run)
        if not rates:
            return Estimate.missing(run.summary.step_time_ms.reason or f"the run is {run.status}")
        return rates[-1].latency_ms.percentile(percentile)

    return Quantity(
        name=f"latency {percentile}",
        figure=figure,
        applies=lambda run: run.is_inference,
        otherwise="the run trains; inference runs measure latency",
    )


def factor(name: str, key: str) -> Quantity:
    """What a factor of the site turns joules into, where the site does not give that factor."""
    return Quantity(
        name=name,
        figure=lambda run: OwnUnit.missing(f"the site gives no {key}"),
        remedy=f"write {key} into the site file",
        needs=ENERGY,
    )
