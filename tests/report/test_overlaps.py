"""Runs that were on one node at the same time are told, whatever their processors' counters say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpc_accel.report.judge.plausibility import is_disturbed
from hpc_accel.report.load import study_records
from hpc_accel.report.load.overlaps import with_overlaps


@pytest.fixture
def runs(study):
    loaded = study_records.load(study).of("digits")[:3]
    return {run.run_id: run for run in loaded}


def at(run, began, ended, *hosts):
    times = {"started_utc": f"2026-01-05T10:{began}", "ended_utc": f"2026-01-05T10:{ended}", "hosts": hosts}
    return replace(run, summary=run.summary.changed(**times), has_record=True)


@pytest.mark.parametrize(
    ("second", "third", "disturbed"),
    [
        (("02:00.500+00:00", "03:00+00:00", "a"), ("03:00.100+00:00", "04:00+00:00", "a"), ()),
        (("01:30.500+00:00", "03:00+00:00", "a"), ("03:00.100+00:00", "04:00+00:00", "a"), (0, 1)),
        (("01:30.500+00:00", "03:00+00:00", "b"), ("01:40.000+00:00", "04:00+00:00", "a"), (0, 2)),
        (("01:30.500+00:00", "03:00+00:00", "b"), ("01:40.000+00:00", "04:00+00:00", "c", "d"), ()),
        (("never", "03:00+00:00", "a"), ("01:10.000+00:00", "01:40+00:00", "a", "b"), (0, 2)),
    ],
)
def test_who_was_on_the_same_node_at_the_same_time(runs, second, third, disturbed):
    first = ("00:00.000+00:00", "02:00+00:00", "a")
    placed = {
        run_id: at(run, *times) for (run_id, run), times in zip(runs.items(), (first, second, third), strict=True)
    }
    found = list(with_overlaps(placed).values())
    assert [index for index, run in enumerate(found) if is_disturbed(run)] == list(disturbed)
    for index in disturbed:
        other = found[next(each for each in disturbed if each != index)]
        [told] = found[index].summary.warnings
        assert f"other runs of this study ran at the same time (digits {other.label})" in told
