"""What `hpc-accel search` prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc_accel.front.few_runs import Searched


def lines_of(found: Searched, objective: str = "time") -> list[str]:
    """For people. `objective` is the study's."""
    lines = [
        f"{found.workload}: {len(found.trials)} of {found.num_candidates} candidates measured "
        f"({found.spent_share:.0%} of what all of them cost in full); ended: {found.stopped}"
    ]
    if found.num_unpredicted:
        lines.append(f"  {found.num_unpredicted} without a predicted time are not looked at")
    if found.best is None:
        return [*lines, "  none of them ran: see the log.txt of each in search/runs/"]
    lines.append(f"  best: {found.best}" + _ties(found))
    if objective != "time":
        lines.append(
            f"  that is by step time alone, though the study's objective is {objective}: a search spends by time"
        )
    lines.append(f"  {_compared(found)}: {', '.join(found.not_beaten)}")
    if disturbed := [each.label for each in found.trials if each.is_disturbed]:
        lines.append(
            f"  disturbed, so that nothing here is sure: {', '.join(disturbed)}; search again on a quiet machine"
        )
    missed = f"could be at most {found.most_missed:.0%} faster" if found.most_missed else "could be faster"
    subject = "one not measured" if found.most_missed else "none not measured"
    lines.append(f"  {subject} {missed}, if its prediction erred in its favour as nine of ten do not")
    lines.append("  to measure the best in full and see the report, list in the study:")
    lines += ["    layouts:", *(f"      - {json.dumps(layout)}" for layout in found.layouts)]
    return [*lines, "    recipes:", *(f"      - {json.dumps(recipe)}" for recipe in found.recipes)]


def _compared(found: Searched) -> str:
    if found.energy_compared:
        return "not beaten in time, node-seconds and energy together"
    return "not beaten in time and node-seconds together (energy is not known of all in one scope and method)"


def _ties(found: Searched) -> str:
    others = [label for label in found.finalists if label != found.best]
    return f"; not surely faster than {', '.join(others)}" if others else ""
