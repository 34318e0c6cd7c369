"""The first screen: per workload which layout to use, how sure that is, what it saves, and the script to submit."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import answer, ranking, savings, wording
from hpc_accel.report.judge.certainty import certainty
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords

DEFAULT_EPOCHS = 100
DEFAULT_SAMPLES = 10**6
MAX_SCRIPT_BYTES = 20_000
LEVELS = {"clear": "Sure", "tie": "A tie", "alone": "Alone", "doubtful": "Doubtful"}
JOULES_PER_KWH = 3.6e6


def cards(records: StudyRecords) -> list[dict[str, Any]]:
    """One card per workload."""
    return [_card(records, workload) for workload in records.workloads]


def _card(records: StudyRecords, workload: str) -> dict[str, Any]:
    runs = records.of(workload)
    best = answer.best_of(records, workload)
    if best is None:
        return {"workload": workload, "run": None, "num_runs": len(runs)}
    run, sure = best.run, certainty(best, runs)
    return {
        "workload": workload,
        "objective": _decided_by(records, run),
        "run": run,
        "meaning": layout_words(run),
        "step": _split(ranking.step_time_ms(run)),
        "rate": _split(ranking.throughput(run)),
        "level": sure.level,
        "level_words": LEVELS[sure.level],
        "why": sure.why,
        "warnings": sure.warnings,
        "warning_kinds": list(dict.fromkeys(text.partition(":")[0] for text in sure.warnings)),
        "length": _length(run),
        "saved": _saved(records, run, runs),
        "command": records.submit_command(run),
        "script": _script(run),
    }


def _script(run: RunRecord) -> str:
    """The text of its job script, so that the page alone is enough; "" where it cannot be read."""
    try:
        with (run.directory / "job.sbatch").open("rb") as file:
            text = file.read(MAX_SCRIPT_BYTES).decode("utf-8", "replace")
        return "\n".join(map(safe_json.clean, text.splitlines()))
    except OSError:
        return ""


def _length(run: RunRecord) -> dict[str, Any]:
    """The training that savings are told of at first: epochs where the run knows how long one is, else samples."""
    epoch = run.summary.steps.samples_per_epoch.value if run.summary.steps else None
    if epoch:
        return {"value": DEFAULT_EPOCHS, "unit": "epochs", "samples": epoch, "words": f"{epoch:,} samples each"}
    return {"value": DEFAULT_SAMPLES, "unit": "samples", "samples": 1, "words": ""}


def _saved(records: StudyRecords, run: RunRecord, runs: list[RunRecord]) -> dict[str, Any]:
    """What the training takes, and what others take more; figures per sample for the page's own arithmetic."""
    mine, length = savings.use_of(run), _length(run)
    samples = length["value"] * length["samples"]
    own = _amounts(mine, samples) if mine else {}
    rows: list[dict[str, Any]] = [
        {"name": "", "is_itself": True, "detail": "", "amounts": own, "per_sample": _per_sample(mine)}
    ]
    for each in savings.against(run, runs):
        rows.append({"name": each.name, "is_itself": each.is_itself, **_against(each, mine, samples)})
    return {"rows": rows, "columns": _columns(rows), "currency": records.cost_unit}


def _against(each: savings.Against, mine: savings.Use | None, samples: float) -> dict[str, Any]:
    if each.is_itself:
        return {"detail": "this is that run", "amounts": {}, "per_sample": {}}
    if each.run is None or each.use is None or mine is None:
        return {"detail": each.reason, "amounts": {}, "per_sample": {}}
    more = savings.Use(
        time_ms=each.use.time_ms - mine.time_ms,
        energy_j=_difference(each.use.energy_j, mine.energy_j),
        cost=_difference(each.use.cost, mine.cost),
    )
    detail = f"{each.run.label}: {wording.with_interval(each.gain)} times as fast"
    if each.gain is not None and each.gain.low <= 1 <= each.gain.high:
        detail += ", which may be no difference"
    amounts = {key: _less_or_more(words) for key, words in _amounts(more, samples).items()}
    return {"detail": detail, "amounts": amounts, "per_sample": _per_sample(more)}


def _less_or_more(words: str) -> str:
    """Of what the other takes more: `3.1 h less`, as the recommended run takes less; `0.2 h more`; `as much`."""
    if words.split(maxsplit=1)[0] == "0":
        return "as much"
    return f"{words.removeprefix('-')} {'more' if words.startswith('-') else 'less'}"


def _difference(theirs: float | None, mine: float | None) -> float | None:
    return theirs - mine if theirs is not None and mine is not None else None


def _per_sample(use: savings.Use | None) -> dict[str, float]:
    if use is None:
        return {}
    energy = use.energy_j / JOULES_PER_KWH if use.energy_j is not None else None
    known = {"time": use.time_ms, "energy": energy, "cost": use.cost}
    return {key: value for key, value in known.items() if value is not None}


def _amounts(use: savings.Use, samples: float) -> dict[str, str]:
    """In words, by column; those that were not measured are left out."""
    per = _per_sample(use)
    say = {"time": wording.long_duration, "energy": wording.short, "cost": wording.short}
    return {key: say[key](value * samples) for key, value in per.items()}


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Of time, energy and cost, those that any row knows."""
    return [key for key in ("time", "energy", "cost") if any(key in row["amounts"] for row in rows)]


def _decided_by(records: StudyRecords, run: RunRecord) -> str:
    """What the recommended run is best for: the study's objective, or time where that could not be measured."""
    best = {
        "energy": [found.run for found in ranking.least_energy(records.of(run.workload)).values()],
        "cost": [found.run for found in [ranking.cheapest(records.of(run.workload))] if found],
    }
    return records.objective if best.get(records.objective) == [run] else "time"


def layout_words(run: RunRecord) -> str:
    """The layout in plain words, for the card of the winner."""
    layout = run.part("layout")
    sizes = {key: int(safe_json.positive(layout, key) or 1) for key in ("dp", "pp", "tp")}
    words = {"dp": "{} data-parallel replicas", "pp": "{} pipeline stages", "tp": "{} tensor-parallel ranks"}
    parts = [words[key].format(size) for key, size in sizes.items() if size > 1] or ["one rank, nothing split"]
    micro = safe_json.positive(layout, "micro_batch_size") or 0
    steps = int(safe_json.positive(layout, "accumulation_steps") or 1)
    batches = f"{wording.counted(steps, 'micro-batch').replace('batchs', 'batches')} of {micro:g}"
    return f"{' x '.join(parts)}; {run.precision}; {batches} per rank and step"


def _split(interval: Any) -> dict[str, str] | None:
    if interval is None:
        return None
    spread = f"{wording.short(interval.low)} to {wording.short(interval.high)}" if interval.high > interval.low else ""
    return {"value": wording.short(interval.value), "spread": spread}
