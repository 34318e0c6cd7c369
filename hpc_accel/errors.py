"""Errors for people: the offending value, the rule it breaks, and the remedy, with an exit code a script can act on.

The exit codes follow sysexits where one fits: 64 usage, 65 bad data, 70 non-finite or internal,
73 cannot create, 74 input/output, 75 retryable (preempted, hung), 78 bad configuration.
"""

from __future__ import annotations


class HpcAccelError(Exception):
    """An error whose message states value, rule and remedy, each on a line of its own."""

    exit_code = 70

    def __init__(self, value: str, rule: str, remedy: str) -> None:
        super().__init__(value, rule, remedy)
        self.value = value
        self.rule = rule
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.value}\n  rule:   {self.rule}\n  remedy: {self.remedy}"


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
