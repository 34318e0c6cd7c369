"""What disturbed a run while its steps were timed, on the node where it was worst."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hpc_accel.measure import host
from hpc_accel.measure.disturbance import Disturbance as Measured
from hpc_accel.measure.disturbance import Look, between, look, together
from hpc_accel.record.figure import Count, Fraction
from hpc_accel.record.parts import Disturbance

MAX_OTHERS_SHARE = 0.10
"""Of the run's own CPUs. Daemons and the launcher take a few percent of a quiet node."""
MAX_NODE_OTHERS_SHARE = 0.25
MAX_STOLEN_SHARE = 0.05
MAX_FREQUENCY_DROP = 0.05
"""Of the clock. Cores that share a power limit move by some percent when one of them wakes."""
NO_CLOCK = "the kernel shows no clock of the CPUs (cpufreq)"
NO_THROTTLES = "the kernel does not count how often heat holds CPUs back (thermal_throttle)"


class DisturbanceWatch:
    """This rank's looks at the machine, at both ends of every timed window."""

    def __init__(self) -> None:
        self._windows: list[tuple[Look | None, Look | None]] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """One timed window."""
        before = look()
        yield
        self._windows.append((before, look()))

    def found(self, comm: Any) -> Disturbance | None:
        """The worst node's figures on rank 0, None elsewhere. Collective."""
        gathered = comm.gather((host.node_id(), platform.node(), self._windows), root=0)
        if gathered is None:
            return None
        names, nodes = {}, dict[str, list[list[tuple[Look | None, Look | None]]]]()
        for node, name, windows in gathered:
            names[node] = name
            nodes.setdefault(node, []).append(windows)
        found = []
        for node, ranks in nodes.items():
            united = [
                (together([first for first, _ in same]), together([last for _, last in same]))
                for same in zip(*ranks, strict=True)
            ]
            found.append(self._figures(names[node], between(united)))
        return max(found, key=lambda each: (len(disturbed(each)), each.others_share.value or 0.0))

    def _figures(self, name: str, figure: Measured) -> Disturbance:
        return Disturbance(
            host=name,
            others_share=Fraction.of(figure.others_share, figure.reason),
            node_others_share=Fraction.of(figure.node_others_share, figure.reason),
            stolen_share=Fraction.of(figure.stolen_share, figure.reason),
            swapped_pages=Count.of(figure.swapped_pages, figure.reason or "the kernel does not count swapped pages"),
            throttle_events=Count.of(figure.throttle_events, figure.reason or NO_THROTTLES),
            frequency_drop=Fraction.of(figure.frequency_drop, figure.reason or NO_CLOCK),
        )


def disturbed(found: Disturbance) -> list[str]:
    """Sentences for the report, each with what can be done."""
    quiet = "measure on nodes of its own (`exclusive: true` in the site file), or again when the machine is quiet"
    said = []
    if (found.others_share.value or 0.0) > MAX_OTHERS_SHARE:
        share = f"{found.others_share.value:.0%}"
        said.append(f"disturbed: other processes took {share} of the CPUs that this run uses on {found.host}: {quiet}")
    elif (found.node_others_share.value or 0.0) > MAX_NODE_OTHERS_SHARE:
        share = f"{found.node_others_share.value:.0%}"
        said.append(f"disturbed: other processes took {share} of the CPUs of {found.host}: {quiet}")
    if (found.stolen_share.value or 0.0) > MAX_STOLEN_SHARE:
        share = f"{found.stolen_share.value:.0%}"
        said.append(
            f"disturbed: the host of this virtual machine took {share} of its processor time: measure again, or on "
            "hardware of your own"
        )
    if found.swapped_pages.value:
        said.append(
            f"disturbed: {found.host} swapped {found.swapped_pages.value:,} pages while steps were timed: choose a "
            "layout that needs less memory, or nodes with more"
        )
    return [*said, *_slowed(found)]


def _slowed(found: Disturbance) -> list[str]:
    """Of CPUs that were slower at the end than at the begin."""
    said = []
    if found.throttle_events.value:
        said.append(
            f"disturbed: heat held back CPUs of {found.host} {found.throttle_events.value:,} times while steps were "
            "timed: measure again on a node that is cooled, or with fewer ranks on it"
        )
    if (found.frequency_drop.value or 0.0) > MAX_FREQUENCY_DROP:
        said.append(
            f"disturbed: the clock of the CPUs of {found.host} fell by {found.frequency_drop.value:.0%} while steps "
            "were timed: measure again with cpu_freq_khz at a clock that they hold, or with more warm-up steps"
        )
    return said
