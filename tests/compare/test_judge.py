"""A planted slow-down is called, two equal studies are not, and what nobody can know is said to be unknown."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_accel.compare.judge import compare
from hpc_accel.compare.side import STEP_TIME, Configuration, Repeat, Side
from hpc_accel.compare.words import lines, to_json
from tests.compare.simulate import side

NUM_TRIES = 150
"""Of each shape."""
SHAPES = (
    {"num_pairs": 1, "num_repeats": 3},
    {"num_pairs": 5, "num_repeats": 3},
    {"num_pairs": 5, "num_repeats": 2},
    {"num_pairs": 5, "num_repeats": 3, "correlation": 0.9, "run_spread": 0.02},
    {"num_pairs": 8, "num_repeats": 3, "run_spread": 0.0},
)


def is_loud(found):
    return any(ratio.verdict in ("slower", "faster") for ratio in (found.overall, *(pair.time for pair in found.pairs)))


def test_two_equal_studies_are_silent_in_19_of_20_tries():
    rng, loud = np.random.default_rng(5), {}
    for shape in SHAPES:
        loud[str(shape)] = sum(is_loud(compare(side(rng, **shape), side(rng, **shape))) for _ in range(NUM_TRIES))
    assert sum(loud.values()) <= len(SHAPES) * NUM_TRIES / 20, loud
    assert max(loud.values()) <= 0.09 * NUM_TRIES, loud  # 5 % and what chance adds in so many tries


@pytest.mark.parametrize("num_pairs", [1, 5, 12])
def test_a_seven_percent_slow_down_is_called_with_its_interval(num_pairs):
    rng, called, covered, blamed, tries = np.random.default_rng(6), 0, 0, 0, 40
    for _ in range(tries):
        found = compare(side(rng, num_pairs=num_pairs), side(rng, num_pairs=num_pairs, slower={0: 1.07}))
        first, *others = (pair.time for pair in found.pairs)
        called += first.verdict == "slower"
        covered += first.low <= 1.07 <= first.high
        blamed += any(each.verdict == "slower" for each in others)
    assert called >= 0.95 * tries
    assert covered >= 0.95 * tries
    assert blamed <= tries / 20


def test_one_run_of_each_is_not_judged_but_all_together_may_be():
    rng = np.random.default_rng(7)
    slower = dict.fromkeys(range(8), 1.07)
    found = compare(side(rng, num_repeats=1, num_pairs=8), side(rng, num_repeats=1, num_pairs=8, slower=slower))
    assert "all pairs: " in (line := next(each for each in lines(found, 0.05) if "fails the limit of 5 %" in each))
    assert line.endswith("; fails the limit of 5 %")
    told = to_json(found, 0.05, 3)
    assert told["overall"]["fails"] and not any(pair["fails"] for pair in told["pairs"])
    assert {pair.time.verdict for pair in found.pairs} == {"unknown"}
    for pair in found.pairs:
        assert pair.time.low is None
        assert pair.time.steps_low < pair.time.value < pair.time.steps_high
    assert found.overall.verdict == "slower"
    assert found.overall.low < 1.07 < found.overall.high
    told = "\n".join(lines(found))
    assert "one run on each side" in told
    assert "repeats: 3" in told


def configuration(values, *, quantity="energy_per_sample_j", basis="node by counter", **more):
    repeats = [
        Repeat(run_id=f"r{index}", figures={STEP_TIME: 10.0 + index / 100, quantity: value}, num_steps=30)
        for index, value in enumerate(values)
    ]
    named = {"workload": "lm", "label": "serial", "computes": {}, "repeats": tuple(repeats)}
    return Configuration(energy_basis=basis, **{**named, **more})


def study(*configurations, **facts):
    return Side(study="s", site="local", facts=facts, configurations=configurations)


def test_energy_is_compared_only_in_one_scope_and_method():
    a, b = configuration([1.0, 1.1, 1.05]), configuration([2.0, 2.1, 2.05])
    energy = compare(study(a), study(b)).pairs[0].ratios["energy_per_sample_j"]
    assert energy.value == pytest.approx(1.95, rel=0.02)
    assert 1 < energy.low < energy.high
    other = compare(study(a), study(configuration([2.0], basis="gpu by counter"))).pairs[0]
    assert other.ratios["energy_per_sample_j"].value is None
    assert "node by counter in A, gpu by counter in B" in other.ratios["energy_per_sample_j"].reason


def test_energies_of_several_methods_are_not_compared_with_another_such_mix():
    mixed = configuration([1.0, 1.1, 1.05], basis="")
    energy = compare(study(mixed), study(mixed)).pairs[0].ratios["energy_per_sample_j"]
    assert energy.value is None
    assert "several among the repeats in A" in energy.reason


def test_a_run_that_drifts_widens_the_interval_and_shows_none_by_its_steps():
    def steady(*errors, is_least):
        times = zip((10.0, 10.001, 10.002), errors, is_least, strict=True)
        repeats = [
            Repeat(run_id="r", figures={STEP_TIME: ms}, num_steps=20, log_error=error, is_least_error=least)
            for ms, error, least in times
        ]
        return study(Configuration(workload="lm", label="serial", computes={}, repeats=tuple(repeats)))

    exact = steady(*[0.001] * 3, is_least=[False] * 3)
    (narrow,) = compare(exact, exact).pairs
    (wide,) = compare(exact, steady(0.001, 0.001, 0.05, is_least=[False, False, True])).pairs
    assert narrow.time.steps_low < 1 < narrow.time.steps_high
    assert wide.time.steps_low is None
    assert wide.time.high - 1 > 10 * (narrow.time.high - 1)


def test_what_was_not_measured_is_no_number():
    found = compare(study(configuration([1.0, 1.1])), study(configuration([1.0, 1.1])))
    latency = found.pairs[0].ratios["latency_p99_ms"]
    assert (latency.value, latency.reason) == (None, "p99 latency was not measured in A")
    (pair,) = to_json(found, 0.05, 0)["pairs"]
    assert pair["latency_p99_ms"]["ratio"] is None


def test_a_run_that_failed_is_unknown_and_says_why():
    bad = configuration([], problem="it is failed: out of memory")
    found = compare(study(configuration([1.0, 1.1])), study(bad, configuration([1.0, 1.1], computes={"layout": {}})))
    assert found.pairs[0].time.verdict == "unknown"
    assert "in B it is failed: out of memory" in "\n".join(lines(found))


def times(*values_ms):
    repeats = [Repeat(run_id="r", figures={STEP_TIME: value}, num_steps=30) for value in values_ms]
    return study(Configuration(workload="lm", label="serial", computes={}, repeats=tuple(repeats)))


def test_runs_that_differ_too_much_tell_nothing():
    for a, b in ((times(1.0, 9.0), times(5.0)), (times(1e-300), times(1e300)), (times(1e-300, 1e300), times(1.0))):
        (pair,) = compare(a, b).pairs
        assert pair.time.verdict == "unknown"
        assert pair.time.reason
        assert lines(compare(a, b), 0.05)


def test_a_wide_interval_does_not_pass_for_no_slow_down():
    wide, narrow = compare(times(10, 11, 10.5), times(10.2, 11, 10.6)), compare(times(10, 10.01), times(10, 10.01))
    assert "not excluded: a slow-down of 5 % in 1 pair" in "\n".join(lines(wide, 0.05))
    assert "not excluded" not in "\n".join(lines(narrow, 0.05))
    assert to_json(narrow, 0.05, 0)["pairs"][0]["excludes_limit"]


def test_differences_and_singles_are_named():
    a = study(configuration([1.0, 1.1], computes={"layout": {"dp": 2}}), torch=("2.10.1",), host=("a",))
    b = study(configuration([1.0, 1.1], computes={"layout": {"dp": 4}}), torch=("2.11.0",), host=("a",))
    found = compare(a, b)
    assert found.found.differences == ("torch 2.11.0 (not 2.10.1)",)
    (alone,) = found.found.only_a
    assert alone.nearest == "layout.dp 4 (not 2)"
