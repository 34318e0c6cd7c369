"""Where the time of a training went, over all of its attempts, and what the whole of it cost: the record.

Goodput is the time of the steps that count over the time that was allocated. An attempt that was killed is known up to
the last event that it noted (jobs/history.py).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hpc_accel.jobs import history
from hpc_accel.measure.energy.derived import JOULES_PER_KWH
from hpc_accel.record.energy import Energy
from hpc_accel.record.figure import Count, Fraction, Grams, OwnUnit, Seconds
from hpc_accel.record.production import LostTime, Production
from hpc_accel.train.production.evaluations import Evaluations
from hpc_accel.train.production.weights import DIRECTORY
from hpc_accel.train.setup import Session

NO_BEST = "the workload names no metric, or it could not be computed"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt, in Unix seconds. `steps` is when its first step began, None where it did not get there."""

    begin: float
    end: float
    submitted: float | None
    steps: float | None
    first_step: int
    saved: dict[int, float]
    """When the state after so many steps was there to be saved."""

    @property
    def start_s(self) -> float:
        """Before its first step; all of it where there was none."""
        return (self.steps or self.end) - self.begin


def attempts_of(events: list[dict[str, Any]], now: float) -> list[Attempt]:
    """The attempts that `events` tell of; the last one is under way."""
    groups: list[list[dict[str, Any]]] = []
    for event in events:
        if event.get("event") == "begin" or not groups:
            groups.append([])
        groups[-1].append(event)
    found = []
    for number, group in enumerate(groups):
        first = next((event for event in group if event["event"] == "steps"), None)
        found.append(
            Attempt(
                begin=group[0]["unix_s"],
                end=now if number == len(groups) - 1 else max(event["unix_s"] for event in group),
                submitted=group[0].get("submitted_unix_s"),
                steps=first["unix_s"] if first else None,
                first_step=int(first["step"]) if first else 0,
                saved={int(event["step"]): event["unix_s"] for event in group if event["event"] == "saved"},
            )
        )
    return found


def redone_s(attempts: list[Attempt]) -> float:
    """Time of attempts after the state that the training went on from."""
    total = 0.0
    for number, attempt in enumerate(attempts[:-1]):
        after = next((each.first_step for each in attempts[number + 1 :] if each.steps is not None), None)
        if attempt.steps is None or after is None:
            continue
        total += max(0.0, attempt.end - attempt.saved.get(after, attempt.steps))
    return total


def queue_s(attempts: list[Attempt]) -> Seconds:
    """Waiting before the first attempt, where Slurm says when it was submitted, and between attempts."""
    if not attempts:
        return Seconds.missing("the script was not started by its supervisor")
    first = attempts[0]
    waited = max(0.0, first.begin - first.submitted) if first.submitted is not None else 0.0
    waited += sum(max(0.0, after.begin - before.end) for before, after in pairwise(attempts))
    return Seconds.of(waited)


def production_of(
    session: Session, done: Evaluations, energy: Energy, *, num_steps: int, checkpoints_s: float
) -> Production:
    """The record of the training, on rank 0, after everything else was done."""
    now = time.time()
    attempts = attempts_of(history.read(session.directory), now)
    training_s = done.rows[-1]["training_s"]
    allocated_s = sum(each.end - each.begin for each in attempts)
    starts = [each.start_s for each in attempts]
    known = {
        "start_s": starts[0] if starts else 0.0,
        "restarts_s": sum(starts[1:]),
        "redone_s": redone_s(attempts),
        "evaluation_s": sum(row["evaluation_s"] for row in done.rows),
        "checkpoints_s": done.checkpoints_s(checkpoints_s),
        "weights_s": done.weights_s,
    }
    best, forecast = done.best(), done.forecast
    nodes, factors = session.run.resources.num_nodes, forecast.factors if forecast else None
    price = factors.price_per_node_hour if factors else None
    carbon = factors.carbon_g_per_kwh if factors else None
    cost = allocated_s / 3600 * nodes * price if price and allocated_s else None
    carbon_g = energy.energy_j / JOULES_PER_KWH * carbon if energy.energy_j is not None and carbon else None
    return Production(
        name=done.asked.name,
        ending=done.ending,
        num_steps=num_steps,
        num_evaluations=len(done.rows),
        best_step=Count.of(best["step"] if best else None, NO_BEST),
        best_value=OwnUnit.of(best["value"] if best else None, NO_BEST),
        weights={name: f"{DIRECTORY}/{name}" for name in (["last", "best"] if best else ["last"])},
        num_attempts=max(1, len(attempts)),
        allocated_s=allocated_s,
        training_s=training_s,
        goodput=Fraction.of(training_s / allocated_s if allocated_s else None, "the script noted no begin"),
        losses=LostTime(**known, other_s=max(0.0, allocated_s - training_s - sum(known.values()))),
        queue_s=queue_s(attempts),
        cost=OwnUnit.of(cost, "the site gives no price_per_node_hour"),
        carbon_g=Grams.of(carbon_g, energy.reason or "the site gives no carbon_g_per_kwh"),
        forecast=forecast,
        slow=tuple(done.slow),
    )
