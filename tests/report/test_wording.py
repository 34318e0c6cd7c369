"""Numbers in words: three digits that matter, one unit, and never a 0 for what was not measured."""

from __future__ import annotations

import pytest

from hpc_accel.report.judge import wording
from hpc_accel.report.judge.statistics import Interval


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "not measured"),
        (0, "0"),
        (0.00012, "1.2e-04"),
        (0.4239, "0.424"),
        (42.27, "42.3"),
        (999.6, "1,000"),
        (235666.4, "235,666"),
        (-3.14159, "-3.14"),
    ],
)
def test_three_digits(value, words):
    assert wording.short(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(2995.0, "2,995"), (23456.0, "23.5k"), (141471.0, "141k"), (1.2e6, "1.20M"), (3e9, "3.00G")]
)
def test_narrow_numbers(value, words):
    assert wording.compact(value) == words


def test_an_interval_is_shown_only_where_there_is_one():
    assert wording.with_interval(Interval(value=4.2, low=4.1, high=4.3), "ms") == "4.20 (4.10 to 4.30) ms"
    assert wording.with_interval(Interval(value=4.2, low=4.2, high=4.2), "ms") == "4.20 ms"
    assert wording.with_interval(None, "ms") == "not measured"


def test_fractions_memory_and_durations():
    values = (None, 0.031, 0.62, 0.9956, 0.9999, 1.0)
    words = ["not measured", "3.1 %", "62 %", "99.5 %", "99.9 %", "100 %"]
    assert [wording.percent(value) for value in values] == words
    assert [wording.signed_percent(value) for value in (0.031, -0.5)] == ["+3.1 %", "-50 %"]
    assert [wording.memory(value) for value in (12, 2**20, 3 * 2**40)] == ["12 B", "1.0 MiB", "3.0 TiB"]
    assert wording.memory(None) == "not measured"
    assert [wording.duration(value) for value in (85.0, 21437.0)] == ["85.0 ms", "21.4 s"]
    assert [wording.error(value) for value in (0, 1.23e-7)] == ["0", "1.2e-07"]


def test_lists_of_names_stay_short():
    names = ["a", "b", "c", "d"]
    assert [wording.named(names[:count]) for count in range(3)] == ["", "a", "a and b"]
    assert [wording.named(names[:count]) for count in (3, 4)] == ["a, b and 1 more", "a, b and 2 more"]
    assert wording.counted(1, "run") == "1 run"
    assert wording.counted(0, "run") == "0 runs"
