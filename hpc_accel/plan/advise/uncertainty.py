"""How far a predicted time may be off: what the planner's errors were on published measurements.

The 90 % quantile of |predicted / measured - 1| of `hpc-accel plan evaluate`, nothing calibrated (docs/planning.md):
Megatron-LM on one node of A100 (740 rows), nanotron on 1 to 64 nodes of H100 (814 rows). The same rows predicted from
the data sheets of these devices alone give the other two.
"""

from __future__ import annotations

from dataclasses import dataclass

ONE_NODE, SEVERAL_NODES = 0.17, 0.67
SHEET_ONE_NODE, SHEET_SEVERAL_NODES = 0.38, 0.67
POWER = 0.37
"""Of power from ratings: 27 to 37 % for one node of H100 (a published node power model compares both)."""
SAME_HARDWARE = 0.05
"""Two layouts or numbers of nodes of one machine nearer than this are a tie: the mean regret of an uncalibrated choice
is 2.7 % on one node."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """A figure, and between which values nine of ten measurements would lie."""

    value: float
    low: float
    high: float

    def __mul__(self, factor: float) -> Range:
        return Range(value=self.value * factor, low=self.low * factor, high=self.high * factor)

    def widened(self, share: float) -> Range:
        """With another independent doubt of that share: the wider of all four corners."""
        return Range(value=self.value, low=self.low * (1 - share), high=self.high * (1 + share))


def error_of(*, measured_device: bool, num_nodes: int) -> float:
    """Which of the four quantiles holds."""
    if measured_device:
        return ONE_NODE if num_nodes == 1 else SEVERAL_NODES
    return SHEET_ONE_NODE if num_nodes == 1 else SHEET_SEVERAL_NODES


def around(seconds: float, error: float) -> Range:
    """Measured values for which `seconds` would be off by `error` of them."""
    return Range(value=seconds, low=seconds / (1 + error), high=seconds / (1 - error))
