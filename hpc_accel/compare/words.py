"""A comparison for people: the answer first, then a line per pair, then what differs and what was not compared."""

from __future__ import annotations

from typing import Any

from hpc_accel.compare.judge import MIN_REPEATS_REMEDY, Comparison, Pair, Ratio
from hpc_accel.compare.match import Single
from hpc_accel.compare.side import QUANTITIES, STEP_TIME, Side
from hpc_accel.report.judge import wording

CONFIDENCE = "95 % for all pairs together"
MOST_SINGLES = 10
MUCH = 0.10
"""Of the CPUs, that others used: from there on it is said."""


def lines(found: Comparison, share: float | None = None) -> list[str]:
    """All that the terminal shows. `share` is that of --fail-if-slower."""
    told = [_answer(found), ""]
    told += [_side("A", found.a), _side("B", found.b)]
    told.append("")
    told += [_pair(pair, share) for pair in found.pairs]
    if found.overall.value is not None:
        fails = _fails(found.overall, share)
        told.append("; ".join([f"all pairs: {_interval(found.overall)} of A's step time, as a geometric mean", *fails]))
    told += ["", "B over A; above 1 is slower or more; intervals hold with " + CONFIDENCE]
    told += [f"differs in B: {text}" for text in found.found.differences] or [
        "nothing that both records know differs: versions, host, files"
    ]
    told += [text for name, side in (("A", found.a), ("B", found.b)) if (text := _disturbed(name, side))]
    for name, singles in (("A", found.found.only_a), ("B", found.found.only_b)):
        told += [f"only in {name}: {_single(each)}" for each in singles[:MOST_SINGLES]]
        if len(singles) > MOST_SINGLES:
            told.append(f"only in {name}: {len(singles) - MOST_SINGLES} more")
    told += _not_excluded(found, share)
    if any(not pair.time.reason.startswith("in ") for pair in found.unknown):
        told.append(f"remedy: {MIN_REPEATS_REMEDY}")
    return told


def to_json(found: Comparison, share: float | None, code: int) -> dict[str, Any]:
    """The same for programs. A ratio without an interval has `reason`."""
    singles = {"only_in_a": found.found.only_a, "only_in_b": found.found.only_b}
    return {
        "format": 1,
        "answer": _answer(found),
        "confidence": CONFIDENCE,
        "fail_if_slower": share,
        "exit_code": code,
        "a": _side_json(found.a),
        "b": _side_json(found.b),
        "pairs": [
            {
                "workload": pair.a.workload,
                "label": pair.a.label,
                "verdict": pair.time.verdict,
                "fails": share is not None and pair.time.is_slower_by(share),
                "excludes_limit": share is not None and pair.time.excludes(share),
                **{quantity: _ratio_json(ratio) for quantity, ratio in pair.ratios.items()},
            }
            for pair in found.pairs
        ],
        "overall": {
            "verdict": found.overall.verdict,
            "fails": share is not None and found.overall.is_slower_by(share),
            **_ratio_json(found.overall),
        },
        "differences": list(found.found.differences),
        **{
            name: [
                {"workload": each.configuration.workload, "label": each.configuration.label, "nearest": each.nearest}
                for each in them
            ]
            for name, them in singles.items()
        },
    }


def _answer(found: Comparison) -> str:
    """One line: what is slower, what is faster, what nobody can say."""
    counts = {
        "slower": [pair for pair in found.pairs if pair.time.verdict == "slower"],
        "faster": [pair for pair in found.pairs if pair.time.verdict == "faster"],
    }
    told = [
        f"{len(pairs)} of {len(found.pairs)} pairs {word}: {_worst(pairs)}" for word, pairs in counts.items() if pairs
    ]
    if found.unknown:
        told.append(f"of {len(found.unknown)} of {len(found.pairs)} pairs it is not known")
    if not told:
        told = [f"no difference shown in {wording.counted(len(found.pairs), 'pair')}"]
    if found.overall.verdict in ("slower", "faster"):
        told.append(f"all pairs together {found.overall.verdict}, {_interval(found.overall)}")
    return "B against A: " + "; ".join(told)


def _worst(pairs: list[Pair]) -> str:
    """The pairs whose ratios are furthest from 1."""
    ordered = sorted(pairs, key=lambda pair: -abs((pair.time.value or 1) - 1))
    return wording.named([f"{each.a.workload} {each.a.label} {_interval(each.time)}" for each in ordered])


def _side(name: str, side: Side) -> str:
    repeats = [len(each.repeats) for each in side.configurations if each.repeats]
    each = " to ".join(map(str, sorted({min(repeats), max(repeats)})))
    runs = "run" if each == "1" else "runs"
    return (
        f"{name}: study {side.study} at {side.site}, {side.measured_from_utc[:10] or 'undated'}, "
        f"{wording.counted(len(repeats), 'configuration')}, {each} {runs} of each"
    )


def _not_excluded(found: Comparison, share: float | None) -> list[str]:
    """That no difference is shown does not say that there is none."""
    if share is None:
        return []
    wide = [
        pair for pair in found.pairs if pair.time.verdict == "no difference shown" and not pair.time.excludes(share)
    ]
    if not wide:
        return []
    pairs = wording.counted(len(wide), "pair")
    return [
        f"not excluded: a slow-down of {100 * share:g} % in {pairs}, whose intervals reach further; repeat more often"
    ]


def _disturbed(name: str, side: Side) -> str:
    """What no statistics can mend: a machine that was not left alone."""
    shares = [each.others_share for one in side.configurations for each in one.repeats if each.others_share is not None]
    disturbed = [share for share in shares if share > MUCH]
    if not disturbed:
        return ""
    most = wording.percent(max(disturbed))
    return f"disturbed: others used up to {most} of the CPUs in {len(disturbed)} of {len(shares)} runs of {name}"


def _pair(pair: Pair, share: float | None) -> str:
    ratio = pair.time
    parts = [f"{pair.a.workload} {pair.a.label}: {ratio.verdict}"]
    if ratio.value is not None and ratio.a is not None and ratio.b is not None:
        parts[0] += f", {wording.short(ratio.a)} -> {wording.short(ratio.b)} ms, {_interval(ratio)}"
    if ratio.reason:
        parts.append(ratio.reason)
    parts += _fails(ratio, share)
    for quantity, name in QUANTITIES.items():
        other = pair.ratios[quantity]
        if quantity != STEP_TIME and other.value is not None:
            parts.append(f"{name} {_interval(other)}")
    return "; ".join(parts)


def _fails(ratio: Ratio, share: float | None) -> list[str]:
    """That it breaks the limit, for the end of its line."""
    return [f"fails the limit of {100 * share:g} %"] if share is not None and ratio.is_slower_by(share) else []


def _interval(ratio: Ratio) -> str:
    if ratio.low is not None and ratio.high is not None:
        return f"{ratio.value:.3f}x ({ratio.low:.3f} to {ratio.high:.3f})"
    if ratio.steps_low is not None and ratio.steps_high is not None:
        return f"{ratio.value:.3f}x (by the steps of these runs alone {ratio.steps_low:.3f} to {ratio.steps_high:.3f})"
    return f"{ratio.value:.3f}x"


def _single(each: Single) -> str:
    told = f"{each.configuration.workload} {each.configuration.label}"
    return f"{told}; the nearest one has {each.nearest}" if each.nearest else told


def _side_json(side: Side) -> dict[str, Any]:
    return {
        "study": side.study,
        "site": side.site,
        "measured_from_utc": side.measured_from_utc,
        "measured_to_utc": side.measured_to_utc,
        "facts": {name: list(values) for name, values in side.facts.items()},
    }


def _ratio_json(ratio: Ratio) -> dict[str, Any]:
    return {
        "a": ratio.a,
        "b": ratio.b,
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "steps_low": ratio.steps_low,
        "steps_high": ratio.steps_high,
        "method": ratio.method,
        "reason": ratio.reason,
    }
