"""Studies as `compare` sees them, simulated: steps that depend on each other, in runs that differ from each other."""

from __future__ import annotations

import numpy as np

from hpc_accel.compare import autocorrelation
from hpc_accel.compare.side import STEP_TIME, Configuration, Repeat, Side

NUM_STEPS = 100
STEP_SPREAD = 0.05
RUN_SPREAD = 0.01
CORRELATION = 0.5
BASE_MS = (1.9, 6.9, 12.0, 25.0, 50.0, 110.0, 300.0, 7.1)


def steps_ms(rng, median_ms, *, run_spread=RUN_SPREAD, correlation=CORRELATION):
    """Log-normal steps of an autoregressive process, now and then a slow one, of a run with a speed of its own."""
    noise = np.empty(NUM_STEPS)
    noise[0] = rng.normal()
    for index in range(1, NUM_STEPS):
        noise[index] = correlation * noise[index - 1] + np.sqrt(1 - correlation**2) * rng.normal()
    steps = median_ms * np.exp(rng.normal(0, run_spread) + STEP_SPREAD * noise)
    steps[rng.random(NUM_STEPS) < 0.02] *= 2.5
    return steps


def repeat(rng, median_ms, number, **how):
    """One run reduced as `reduce.py` does it."""
    steps = steps_ms(rng, median_ms, **how)
    time = autocorrelation.integrated_time(steps)
    error = autocorrelation.log_error(steps, time)
    return Repeat(
        run_id=f"r{number}",
        figures={STEP_TIME: float(np.median(steps))},
        num_steps=len(steps),
        log_error=error and error.value,
        is_least_error=bool(error and error.is_least),
        steps_per_value=time,
    )


def side(rng, *, slower=None, num_repeats=3, num_pairs=5, **how):
    """A study; `slower` maps a pair's number to its factor. How much runs differ, differs by pair."""
    configurations = []
    for number in range(num_pairs):
        median_ms = BASE_MS[number % len(BASE_MS)] * (slower or {}).get(number, 1.0)
        spread = how.get("run_spread", RUN_SPREAD) * (0.6 + 0.2 * (number % 5))
        configurations.append(
            Configuration(
                workload="lm",
                label=f"layout{number}",
                computes={"layout": {"number": number}},
                repeats=tuple(
                    repeat(rng, median_ms, index, **{**how, "run_spread": spread}) for index in range(num_repeats)
                ),
            )
        )
    return Side(study="simulated", site="local", configurations=tuple(configurations))
