"""Who is best for what: only runs that count, per workload, and never a difference the intervals do not show.

Times are compared per sample, so that runs of another global batch can stand beside each other. Energy is
compared only inside one scope and method, and only where every device was covered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from hpc_accel.report.judge.statistics import Interval, ratio
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best run, and the runs that cannot be told from it."""

    run: RunRecord
    value: Interval
    ties: tuple[RunRecord, ...]
    next: tuple[RunRecord, Interval] | None = None  # the best of those that can be told from it


def step_time_ms(run: RunRecord) -> Interval | None:
    """Median step time with its interval; one that is missing or inverted is not known."""
    estimate = run.summary.step_time_ms
    median, low, high = estimate.positive, estimate.ci_low, estimate.ci_high
    if median is None:
        return None
    if low is None or high is None or not 0 < low <= median <= high:
        return Interval(value=median, low=median, high=median, is_known=False)
    return Interval(value=median, low=low, high=high)


def global_batch_size(run: RunRecord) -> float:
    """Samples of one step, as measured, else as planned."""
    measured = run.summary.steps.global_batch_size if run.summary.steps else 0
    layout = run.part("layout")
    sizes = [safe_json.positive(layout, key) or 1 for key in ("dp", "micro_batch_size", "accumulation_steps")]
    return measured or sizes[0] * sizes[1] * sizes[2]


def num_timed_samples(run: RunRecord) -> float | None:
    """Samples trained in the timed steps."""
    steps = run.num_timed
    return steps * global_batch_size(run) if steps else None


def throughput(run: RunRecord) -> Interval | None:
    """Samples per second."""
    time = step_time_ms(run)
    return time.inverse(global_batch_size(run) * 1e3) if time else None


def energy_per_sample_j(run: RunRecord) -> float | None:
    """Gross energy of the timed steps over the samples trained in them, as the run recorded it."""
    return run.summary.energy.per_sample_j.positive


def energy_basis(run: RunRecord) -> tuple[str, str]:
    """Scope and method: the two things that must be equal before energies are compared."""
    return run.summary.energy.scope or "unknown scope", run.summary.energy.method


def energy_is_partial(run: RunRecord) -> bool:
    """Whether fewer ranks, nodes or devices were seen than expected: such a total is no total."""
    return run.summary.energy.coverage.is_short or run.summary.energy.is_partial


def fastest(runs: Iterable[RunRecord]) -> Best | None:
    """The run of the shortest time per sample."""

    def time(run: RunRecord) -> Interval | None:
        step = step_time_ms(run)
        return step.scaled(1 / global_batch_size(run)) if step else None

    return _lowest(runs, time)


def least_energy(runs: Iterable[RunRecord]) -> dict[tuple[str, str], Best]:
    """The run of the least energy per sample, for each scope and method apart."""
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        if run.counts and energy_per_sample_j(run) is not None and not energy_is_partial(run):
            groups.setdefault(energy_basis(run), []).append(run)

    def energy(run: RunRecord) -> Interval | None:
        value = energy_per_sample_j(run)
        # One window has no interval of its own; the power being what it is, the time's relative interval is a floor.
        time = step_time_ms(run)
        if value is None or time is None:
            return None
        floor = time.scaled(value / time.value)
        # Of repeats, the least and the most any of them used.
        each = [used for one in run.repeats if one.counts and (used := energy_per_sample_j(one))]
        return replace(floor, low=min(floor.low, *each), high=max(floor.high, *each)) if each else floor

    found = {basis: _lowest(group, energy) for basis, group in groups.items()}
    return {basis: best for basis, best in found.items() if best}


def cheapest(runs: Iterable[RunRecord]) -> Best | None:
    """The run of the lowest price per sample."""
    return _lowest(runs, cost_per_sample)


def cost(run: RunRecord) -> Interval | None:
    """What the timed steps cost: the price of the nodes (else the one planned) for the time that was measured."""
    price, measured = safe_json.positive(run.candidate, "price_per_node_hour"), step_time_ms(run)
    if price and measured:
        nodes = safe_json.positive(run.part("resources"), "num_nodes") or 1
        return measured.scaled(price * nodes * _priced_steps(run) / 3.6e6)
    planned = safe_json.positive(run.candidate, "prediction", "cost")
    predicted_ms = safe_json.positive(run.candidate, "prediction", "step_time_ms")
    asked = safe_json.positive(run.run, "measure", "steps")
    if not (planned and predicted_ms and asked and measured):
        return None
    return measured.scaled(planned / predicted_ms / asked * _priced_steps(run))


def cost_per_sample(run: RunRecord) -> Interval | None:
    """What one sample costs."""
    price = cost(run)
    return price.scaled(1 / (_priced_steps(run) * global_batch_size(run))) if price else None


def _priced_steps(run: RunRecord) -> float:
    """The timed steps, whose energy is told. A slow sensor needs a long window, so they may be more than asked for."""
    return run.num_timed or safe_json.positive(run.run, "measure", "steps") or 1


Baselines = dict[tuple[str, str], RunRecord]
"""Per workload and precision, its fastest serial run: the hardest honest one to beat."""


def baselines(runs: Iterable[RunRecord]) -> Baselines:
    """Found once for all runs: looking for it run by run would take quadratic time."""
    serial: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        if run.kind == "serial":
            serial.setdefault((run.workload, run.precision), []).append(run)
    found = {key: fastest(group) for key, group in serial.items()}
    return {key: best.run for key, best in found.items() if best}


def serial_statuses(runs: Iterable[RunRecord]) -> dict[tuple[str, str], str]:
    """Per workload and precision, the status of its first serial run, whether it counts or not."""
    found: dict[tuple[str, str], str] = {}
    for run in runs:
        if run.kind == "serial":
            found.setdefault((run.workload, run.precision), run.status)
    return found


def no_baseline_words(run: RunRecord, statuses: dict[tuple[str, str], str]) -> str:
    """Why a run has no serial run to be compared with."""
    status = statuses.get((run.workload, run.precision))
    return f"its serial run is {status}" if status else "no serial run; add `- {}` to its layouts"


def speed_up(run: RunRecord, against: Baselines) -> Interval | None:
    """Throughput over the baseline's, with its interval; None without a baseline."""
    serial = against.get((run.workload, run.precision))
    mine, theirs = throughput(run), throughput(serial) if serial else None
    if mine is None or theirs is None:
        return None
    if serial is run:
        return Interval(value=1.0, low=1.0, high=1.0)
    return ratio(mine, theirs)


def _lowest(runs: Iterable[RunRecord], value_of: Callable[[RunRecord], Interval | None]) -> Best | None:
    valued = [(value, run) for run in runs if run.counts and (value := value_of(run)) is not None]
    if not valued:
        return None
    best_value, best_run = min(valued, key=lambda pair: pair[0].value)
    others = sorted((pair for pair in valued if pair[1] is not best_run), key=lambda pair: pair[0].value)
    ties = tuple(run for value, run in others if value.overlaps(best_value))
    behind = next(((run, value) for value, run in others if not value.overlaps(best_value)), None)
    return Best(run=best_run, value=best_value, ties=ties, next=behind)
