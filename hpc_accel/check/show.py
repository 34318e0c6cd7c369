"""The answer of a check as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hpc_accel.check.check import Answer

MOST_LEFT_OUT = 10
MOST_TRIED = 6


def lines(answer: Answer) -> Iterator[str]:
    """What was found, and what comes next; errors stand apart, on standard error."""
    yield f"{answer.study}: site {answer.site}, {_count(len(answer.workloads), 'workload')}"
    for each in answer.workloads:
        yield ""
        yield from _workload(each)
    yield ""
    took = f"checked in {answer.time_s:.1f} s"
    if answer.errors:
        yield f"{_count(len(answer.errors), 'error')} to correct; {took}"
    elif answer.num_runs is None:
        yield f"nothing to correct; the planner proposes layouts from what the probe measures; {took}"
    else:
        yield f"nothing to correct; {_count(answer.num_runs, 'run')} to measure; {took}"


def _workload(found: dict[str, Any]) -> Iterator[str]:
    if "error" in found:
        yield f"{found['name']}: {found['error']['value'].splitlines()[0]}"
        return
    yield f"{found['name']} ({found['entry']}), {found['time_s']:.1f} s"
    yield f"  model:    {found['num_parameters']:,} parameters"
    if found["unused_parameters"]:
        yield f"            the loss does not depend on {', '.join(found['unused_parameters'][:3])}"
    if found["samples"] is None:
        yield f"  data:     {_samples(found)}, not looked at"
        yield "  not run:  too large for this machine, so built without values: shapes fit, nothing else was tried"
    else:
        yield from _data(found)
        yield from _trial(found["trial"])
    yield from _reasons("would fail", found["would_fail"])
    yield from _reasons("left out", found["left_out"])


def _data(found: dict[str, Any]) -> Iterator[str]:
    samples = found["samples"]
    kinds, looked_at = samples["kinds"], len(samples["looked_at"])
    (first, *others) = kinds
    yield f"  data:     {_samples(found)}; {first}"
    if others:
        yield f"            samples differ: {', '.join(f'[{at[0]}] {kind}' for kind, at in list(kinds.items())[1:4])}"
    else:
        yield f"            alike in all {looked_at} looked at: the first, the last and some between"


def _trial(trial: dict[str, Any]) -> Iterator[str]:
    if trial["loss"] is not None:
        mean = "of the micro-batch" if trial["mean_over"] == "neither" else trial["mean"]
        yield f"  loss:     {trial['loss']:.6g}, {mean}"
        if trial["mean_over"] == "neither":
            yield f"            {trial['mean']}: layouts with other micro-batches train on something else"
    if trial["tried"]:
        more = len(trial["tried"]) - MOST_TRIED
        yield f"  tried:    forward and backward of {'; '.join(trial['tried'][:MOST_TRIED])}" + (
            f"; and {more} more" if more > 0 else ""
        )
    if trial["not_tried"]:
        yield f"  not run:  {trial['not_tried']}"


def _reasons(title: str, reasons: list[dict[str, Any]]) -> Iterator[str]:
    for reason in reasons[:MOST_LEFT_OUT]:
        where = f" ({reason['where']})" if reason.get("where") else ""
        yield f"  {title}: {reason['label']}: {reason['value']}{where}; {reason['rule']}"
    if len(reasons) > MOST_LEFT_OUT:
        yield f"  {title}: {len(reasons) - MOST_LEFT_OUT} more; --json has all"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _samples(found: dict[str, Any]) -> str:
    total = found["num_samples"]
    return f"{total:,} samples" if total is not None else "a stream without a length"
