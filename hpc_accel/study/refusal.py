"""How a rule says that a run cannot work: which run, what value, which rule, what to do."""

from __future__ import annotations

from hpc_accel.errors import ConfigError
from hpc_accel.study.run import Run


def refusal(run: Run, value: str, rule: str, remedy: str) -> ConfigError:
    """The error, with the run's name before the value."""
    return ConfigError(f"{run.workload.name} {run.layout.label}: {value}", rule, remedy)
