"""The figures of one evaluation as a table that people read."""

from __future__ import annotations

from typing import Any

TIME_ROWS = (
    ("num_rows", "rows predicted", ""),
    ("num_refused", "rows refused", ""),
    ("mape", "mean error", "%"),
    ("median_error", "median error", "%"),
    ("signed_error", "signed error", "%"),
    ("p90_error", "90 % of errors below", "%"),
    ("max_error", "largest error", "%"),
    ("num_groups", "groups of layouts", ""),
    ("mean_spearman", "rank correlation", ""),
    ("min_spearman", "the least of a group", ""),
    ("regret_first_1", "regret of the choice", "%"),
    ("regret_first_3", "of the best of first 3", "%"),
    ("regret_first_5", "of the best of first 5", "%"),
    ("max_regret", "largest regret", "%"),
    ("best_picked", "best picked", "%"),
)
MEMORY_ROWS = (
    ("num_peaks", "peaks compared", ""),
    ("memory_signed_error", "signed error", "%"),
    ("memory_median_error", "median error", "%"),
    ("memory_max_under", "most below", "%"),
    ("memory_max_over", "most above", "%"),
    ("under_by_10_percent", "below by over a tenth", "%"),
    ("num_held", "held between steps", ""),
    ("held_within_2_percent", "held, within 2 %", "%"),
    ("num_argument_sets", "sets of equal arguments", ""),
    ("peak_in_or_near_range", "in or near their range", "%"),
    ("ran_but_refused", "ran, called too large", "%"),
    ("num_failed", "runs that failed", ""),
    ("failed_but_called_fit", "failed, called a fit", "%"),
)


def table(found: dict[str, Any]) -> list[str]:
    """Lines of text: the planner beside one constant and the rule, then memory, then what was refused and why."""
    how = f"{found['calibrate']} measured rows a block" if found["calibrate"] else "nothing measured"
    lines = [f"{found['set']} ({found['file']}, {found['num_rows']} rows) on {found['hardware']}, {how}"]
    lines.append(f"{'':26}{'planner':>12}{'constant':>12}{'rule':>12}")
    for key, label, unit in TIME_ROWS:
        cells = [_cell(found[column].get(key), unit) for column in ("planner", "constant", "rule")]
        if any(cells):
            lines.append(f"{label:26}" + "".join(f"{cell:>12}" for cell in cells))
    for key, label, unit in MEMORY_ROWS:
        cell = _cell(found["memory"].get(key), unit)
        if cell and found["memory"]["num_peaks"]:
            lines.append(f"memory: {label:30}{cell:>12}")
    for each in found["refused"]:
        lines.append(f"refused {each['num_rows']}: {each['reason']}")
    return lines


RESULT_ROWS = (
    *TIME_ROWS[:5],
    ("max_error", "largest error", "%"),
    ("num_pairs", "pairs that differ", ""),
    ("pairs_in_order", "of them in order", "%"),
    ("mean_spearman", "rank correlation", ""),
    ("num_groups", "workloads", ""),
    ("regret_first_1", "regret of the choice", "%"),
    ("max_regret", "largest regret", "%"),
    ("num_peaks", "peaks compared", ""),
    ("memory_signed_error", "memory: signed error", "%"),
    ("memory_max_under", "memory: most below", "%"),
)


def results_table(found: dict[str, Any]) -> list[str]:
    """Lines of text: a study's predictions over all its runs, and over those that nothing disturbed."""
    lines = [f"{found['study']}: {found['num_runs']} runs, {found['num_disturbed']} of them disturbed"]
    lines.append(f"{'':26}{'all':>12}{'quiet':>12}")
    for key, label, unit in RESULT_ROWS:
        cells = [_cell(found[column].get(key), unit) for column in ("all", "quiet")]
        if any(cells):
            lines.append(f"{label:26}" + "".join(f"{cell:>12}" for cell in cells))
    for each in found["refused"]:
        lines.append(f"refused {each['num_rows']}: {each['reason']}")
    return lines


REPLAY_ROWS = (
    ("within_1_percent", "choice within 1 %", "%"),
    ("mean_regret", "mean regret", "%"),
    ("max_regret", "largest regret", "%"),
    ("no_choice", "groups without a choice", ""),
    ("median_trials", "runs, median", ""),
    ("max_trials", "runs, most", ""),
    ("mean_spent", "of the grid's cost, mean", "%"),
    ("max_spent", "of the grid's cost, most", "%"),
    ("over_budget", "groups over the budget", ""),
    ("ended_early", "ended before the budget", ""),
)


def replay_table(found: dict[str, Any]) -> list[str]:
    """Lines of text: what each way of spending finds."""
    most = f", at most {found['most']} runs" if found["most"] else ""
    lines = [
        f"{found['set']} ({found['file']}): {found['num_groups']} groups, {found['num_rows']} rows, a budget of "
        f"{found['budget']:.0%} of each grid{most}, a run with {found['short']:.0%} of the steps"
    ]
    lines.append(f"{'':26}" + "".join(f"{name:>18}" for name in found["ways"]))
    for key, label, unit in REPLAY_ROWS:
        cells = [_cell(way[key], unit) for way in found["ways"].values()]
        lines.append(f"{label:26}" + "".join(f"{cell:>18}" for cell in cells))
    return lines


def _cell(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    text = str(value) if isinstance(value, int) else f"{value:.2f}"
    return f"{text} {unit}".strip()
