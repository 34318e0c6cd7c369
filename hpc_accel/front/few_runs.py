"""`hpc-accel search`: candidates of a plan in short runs, one after the other, where they can change the answer.

Which is next, and when to stop, says plan/spend.py. A short run is an ordinary run with fewer steps, checked against
the serial one like any other, in results/<study>/search/; what was measured there is not measured again. The best few
are then listed for a study, which measures them in full and reports them.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.files import write_atomically
from hpc_accel.jobs.site import load_site
from hpc_accel.jobs.submit import submit_and_wait
from hpc_accel.jobs.write import write_run
from hpc_accel.plan.spend import CALIBRATED, UNCALIBRATED, Candidate, Expected, Spending, Spent
from hpc_accel.record import storage
from hpc_accel.record.summary import Summary
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Run
from hpc_accel.study.run_file import write_run_file

LEAST_STEPS, WARMUP_STEPS = 5, 2
Tell = Callable[[str], None]
Block = tuple[str, str, int, int, bool]
"""Precision, recomputation, tensor-parallel ranks, micro-batch size, whether the sequence is divided."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One short run: what was predicted, what it measured (None and why), and what it drew."""

    run_id: str
    label: str
    num_nodes: int
    predicted_ms: float
    measured_ms: float | None
    low_ms: float | None = None
    high_ms: float | None = None
    energy_per_step_j: float | None = None
    """None also where not all devices were seen."""
    energy_basis: tuple[str, str] | None = None
    """Its scope and method: energies are compared where both are the same."""
    is_disturbed: bool = False
    """Whether something else took the processors while it was timed."""
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What the search did, for one workload."""

    workload: str
    num_candidates: int
    num_unpredicted: int
    """Candidates without a predicted time, which are not measured here."""
    trials: tuple[Trial, ...]
    stopped: str
    best: str | None
    finalists: tuple[str, ...]
    """The best, and those whose intervals overlap its own."""
    not_beaten: tuple[str, ...]
    """Of those measured, the ones that no other beats in time, node-seconds and energy together; without
    energy unless `energy_compared`."""
    energy_compared: bool
    """Whether all that were measured have an energy, of one scope and method."""
    most_missed: float | None
    """By how much one not measured could be faster, in its prediction's favour; 0 where none could."""
    spent_share: float
    """Predicted node-seconds of the steps taken, warm-up included, over those of all candidates in full."""
    layouts: tuple[dict[str, Any], ...]
    """The finalists' layouts as a study lists them, each once."""
    recipes: tuple[dict[str, Any], ...]
    """The finalists' recipes likewise."""


def block_of(run: Run) -> Block:
    """What the error of a prediction is common to."""
    layout, recipe = run.layout, run.recipe
    return recipe.precision, recipe.recompute, layout.tp, layout.micro_batch_size, layout.sequence_parallel


def apart(one: Hashable, other: Hashable) -> float | None:
    """Powers of two between blocks; None where precision, recomputation or division of the sequence differ."""
    if not isinstance(one, tuple) or not isinstance(other, tuple) or (one[:2], one[4]) != (other[:2], other[4]):
        return None
    return math.hypot(math.log2(one[2] / other[2]), math.log2(one[3] / other[3]))


def short_of(run: Run, share: float) -> Run:
    """The same with that share of the steps, and fewer before them."""
    steps = max(LEAST_STEPS, round(share * run.measure.steps))
    fewer = {"steps": min(steps, run.measure.steps), "warmup_steps": min(WARMUP_STEPS, run.measure.warmup_steps)}
    measure = run.measure.model_copy(update={**fewer, "max_steps": None})
    return Run.model_validate({**run.model_dump(exclude={"run_id"}), "measure": measure.model_dump()})


def search(
    workload: str,
    runs: Sequence[Expected],
    directory: Path,
    *,
    most: int,
    short: float,
    tell: Tell,
    measure: Callable[[Run, Path], Summary | str] | None = None,
) -> Searched:
    """Spend at most `most` short runs on `runs`, each with its predicted milliseconds.

    `measure` gives a record, or why there is none; by default a job script does. Raises ConfigError where no time is
    predicted of any.
    """
    told = [(each, each.time_ms) for each in runs if each.time_ms is not None]
    known = [(each.run, time_ms) for each, time_ms in told]
    if not known:
        raise ConfigError(
            f"{workload}: no candidate of {len(runs)} has a predicted time",
            "a search spends runs by predictions",
            "list the layouts and measure all: hpc-accel run",
        )
    take = measure or measured
    trials: dict[int, Trial] = {}

    def one(key: int) -> float | None:
        run, predicted = known[key]
        few = short_of(run, short)
        trials[key] = _trial(few, predicted, take(few, directory / few.run_id))
        found = trials[key]
        words = f"{found.measured_ms:.4g} ms" if found.measured_ms is not None else found.reason
        tell(f"{run.label}: predicted {predicted:.4g} ms, measured {words}")
        return found.measured_ms / 1e3 if found.measured_ms is not None else None

    alone = [key for key, (run, _) in enumerate(known) if run.layout.num_ranks == 1]
    baseline = min(alone, key=lambda key: known[key][1], default=None)
    candidates = [
        Candidate(
            key=key,
            predicted_s=time_ms / 1e3,
            block=block_of(each.run),
            cost=_node_ms(short_of(each.run, short), time_ms),
            error=each.error or UNCALIBRATED,
            first=key == baseline,
        )
        for key, (each, time_ms) in enumerate(told)
    ]
    spending = Spending(candidates=candidates, distance=apart)
    spent = spending.run(one, budget=math.inf, most=most)
    return _told(workload, known, len(runs), spending, spent, trials)


def measured(run: Run, directory: Path) -> Summary | str:
    """The record of a run, measured now unless it was; or why there is none.

    A run that failed is measured again: its node may have died, or its time have ended.
    """
    path = directory / "summary.json"
    record = storage.read(path, run.run_id)
    if isinstance(record, Summary) and record.status in ("completed", "wrong"):
        return record
    path.unlink(missing_ok=True)
    _measure(run, directory)
    record = storage.read(path, run.run_id)
    return record if isinstance(record, Summary) else record.reason


def _measure(run: Run, directory: Path) -> None:
    """By its job script, to its end."""
    directory.mkdir(parents=True, exist_ok=True)
    write_run_file(run, directory)
    site = load_site(run.site)
    script = write_run(run, directory, site=site)
    if site.scheduler == "slurm":
        submit_and_wait(script, lambda job_id: None)
        return
    with (directory / "log.txt").open("w") as log:
        subprocess.run(["bash", str(script)], stdout=log, stderr=log, check=False)


def _trial(run: Run, predicted_ms: float, record: Summary | str) -> Trial:
    plain: dict[str, Any] = {
        "run_id": run.run_id,
        "label": run.label,
        "num_nodes": run.resources.num_nodes,
        "predicted_ms": predicted_ms,
    }
    if isinstance(record, str):
        return Trial(**plain, measured_ms=None, reason=record)
    time = record.step_time_ms
    if record.status != "completed" or time.value is None:
        return Trial(**plain, measured_ms=None, reason=f"{record.status}: {time.reason or 'it does not count'}")
    partial = record.energy.is_partial or record.energy.coverage.is_short
    return Trial(
        **plain,
        measured_ms=time.value,
        low_ms=time.ci_low,
        high_ms=time.ci_high,
        energy_per_step_j=None if partial else record.energy.per_step_j.value,
        energy_basis=(record.energy.scope or "unknown scope", record.energy.method),
        is_disturbed=any(warning.startswith("disturbed: ") for warning in record.warnings),
    )


def _told(
    workload: str,
    known: list[tuple[Run, float]],
    num_runs: int,
    spending: Spending,
    spent: Spent,
    trials: dict[int, Trial],
) -> Searched:
    full = sum(_node_ms(run, ms) for run, ms in known)
    finalists = _finalists(spent, trials)
    best = [known[key][0] for key in finalists]
    with_energy = _energy_compares(trials)
    left = [each for each in spending.candidates if each.key not in trials]
    hope = min((spending.hope(each) for each in left), default=math.inf)
    return Searched(
        workload=workload,
        num_candidates=num_runs,
        num_unpredicted=num_runs - len(known),
        trials=tuple(trials[key] for key in spent.trials),
        stopped=spent.stopped,
        best=known[spent.best][0].label if spent.best is not None else None,
        finalists=tuple(each.label for each in best),
        not_beaten=tuple(known[key][0].label for key in _not_beaten(trials, with_energy)),
        energy_compared=with_energy,
        most_missed=max(0.0, 1 - hope / spent.best_s) if spent.best is not None else None,
        spent_share=spent.cost / full,
        layouts=_once([each.layout.model_dump(mode="json", exclude_defaults=True) for each in best]),
        recipes=_once([_listed(each.recipe) for each in best]),
    )


def _finalists(spent: Spent, trials: dict[int, Trial]) -> list[int]:
    """The best first, then those that it is not surely faster than. Without intervals, a few per cent count as none."""
    if spent.best is None:
        return []
    top = trials[spent.best]
    bound = top.high_ms or (top.measured_ms or 0.0) * (1 + CALIBRATED)
    near = [key for key, each in trials.items() if each.measured_ms and (each.low_ms or each.measured_ms) <= bound]
    return sorted(near, key=lambda key: trials[key].measured_ms or math.inf)


def _node_ms(run: Run, step_ms: float) -> float:
    """Node-milliseconds of all its steps."""
    return step_ms * run.resources.num_nodes * (run.measure.warmup_steps + run.measure.steps)


def _energy_compares(trials: dict[int, Trial]) -> bool:
    ran = [each for each in trials.values() if each.measured_ms is not None]
    return all(each.energy_per_step_j for each in ran) and len({each.energy_basis for each in ran}) == 1


def _not_beaten(trials: dict[int, Trial], with_energy: bool) -> list[int]:
    ran = {key: each for key, each in trials.items() if each.measured_ms is not None}

    def figures(each: Trial) -> tuple[float, ...]:
        time = each.measured_ms or math.inf
        return (time, time * each.num_nodes, *([each.energy_per_step_j or 0.0] if with_energy else []))

    def beaten(key: int) -> bool:
        mine = figures(ran[key])
        others = (figures(each) for other, each in ran.items() if other != key)
        return any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for other in others)

    return [key for key in ran if not beaten(key)]


def _listed(recipe: Recipe) -> dict[str, Any]:
    """As a study lists it, its precision always."""
    return {"precision": recipe.precision, **recipe.model_dump(mode="json", exclude_defaults=True)}


def _once(each: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    return tuple(one for number, one in enumerate(each) if one not in each[:number])


def search_all(
    planned: dict[str, list[Expected]], directory: Path, most: int, short: float, tell: Tell
) -> list[Searched]:
    """Each workload's search, and search.json in `directory`."""
    found = [
        search(workload, runs, directory / "runs", most=most, short=short, tell=tell)
        for workload, runs in planned.items()
    ]
    write_atomically(directory / "search.json", json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return found
