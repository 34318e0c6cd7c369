"""Errors for people: the offending value, the rule it breaks, and the remedy, with an exit code a script can act on.

The exit codes follow sysexits where one fits: 64 usage, 65 bad data, 70 non-finite, drifted or internal,
73 cannot create, 74 input/output, 75 retryable (preempted, hung), 78 bad configuration.
"""

from __future__ import annotations


class HpcAccelError(Exception):
    """An error whose message states value, rule and remedy, each on a line of its own.

    `where` is the line of the user's own code at which it happened, if it happened there.
    """

    exit_code = 70
    where: str | None = None

    def __init__(self, value: str, rule: str, remedy: str) -> None:
        super().__init__(value, rule, remedy)
        self.value = value
        self.rule = rule
        self.remedy = remedy

    def __str__(self) -> str:
        where = f"  where:  {self.where}\n" if self.where else ""
        return f"{self.value}\n{where}  rule:   {self.rule}\n  remedy: {self.remedy}"


class UsageError(HpcAccelError):
    """The command line cannot be understood."""

    exit_code = 64


class DataError(HpcAccelError):
    """Input data are broken: a record, a label, a checkpoint."""

    exit_code = 65


class NonFiniteError(HpcAccelError):
    """Training produced NaN or infinity beyond the allowed number of skips. `step` is where it was seen first."""

    exit_code = 70

    def __init__(self, value: str, rule: str, remedy: str, step: int = 0) -> None:
        super().__init__(value, rule, remedy)
        self.step = step


class DriftError(NonFiniteError):
    """Replicas of one model hold different weights: like a NaN, a state that nothing may go on from."""


class CannotCreateError(HpcAccelError):
    """An output directory or file cannot be created."""

    exit_code = 73


class InputOutputError(HpcAccelError):
    """A disk is full or broken."""

    exit_code = 74


class RetryableError(HpcAccelError):
    """The job may succeed when run again: preempted, hung, node lost."""

    exit_code = 75


class ConfigError(HpcAccelError):
    """A study, site or layout breaks a rule; nothing was started."""

    exit_code = 78


KINDS: tuple[type[HpcAccelError], ...] = (
    HpcAccelError,
    UsageError,
    DataError,
    NonFiniteError,
    DriftError,
    CannotCreateError,
    InputOutputError,
    RetryableError,
    ConfigError,
)
BY_NAME = {kind.__name__: kind for kind in KINDS}


def to_json(error: HpcAccelError) -> dict[str, str | None]:
    """An error as another process can read it."""
    return {
        "kind": type(error).__name__,
        "value": error.value,
        "where": error.where,
        "rule": error.rule,
        "remedy": error.remedy,
    }


def from_json(content: dict[str, str | None]) -> HpcAccelError:
    """The error that `to_json` wrote."""
    error = BY_NAME[str(content["kind"])](str(content["value"]), str(content["rule"]), str(content["remedy"]))
    error.where = content["where"]
    return error
