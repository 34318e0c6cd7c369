"""The worst node's figures, and what is said of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hpc_accel.measure.disturbance import Look
from hpc_accel.record.figure import Count, Fraction
from hpc_accel.record.parts import Disturbance
from hpc_accel.runtime.disturbance import DisturbanceWatch, disturbed


def figures(others=0.0, node=0.0, stolen=0.0, swapped=0, throttled=0, drop=0.0):
    return Disturbance(
        host="n1",
        others_share=Fraction.of(others),
        node_others_share=Fraction.of(node),
        stolen_share=Fraction.of(stolen),
        swapped_pages=Count.of(swapped),
        throttle_events=Count.of(throttled),
        frequency_drop=Fraction.of(drop),
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (figures(others=0.05, node=0.2, stolen=0.02), []),
        (figures(others=0.4, node=0.4), ["other processes took 40% of the CPUs that this run uses on n1"]),
        (figures(node=0.5), ["other processes took 50% of the CPUs of n1"]),
        (figures(stolen=0.2, swapped=1200), ["took 20% of its processor time", "n1 swapped 1,200 pages"]),
        (figures(throttled=3, drop=0.02), ["heat held back CPUs of n1 3 times"]),
        (figures(drop=0.3), ["the clock of the CPUs of n1 fell by 30%"]),
        (Disturbance.missing("too short"), []),
    ],
)
def test_what_is_worth_a_warning(found, said):
    told = disturbed(found)
    assert len(told) == len(said)
    for text, expected in zip(told, said, strict=True):
        assert text.startswith("disturbed: ") and expected in text


def test_ranks_of_a_node_are_taken_together_and_the_worst_node_counts():
    """Two ranks on a, one on b, 10 s on 2 CPUs each: a is full of its own work, on b a stranger takes half."""

    def window(own, busy):
        first = Look(time_s=0, busy_s={0: 0.0, 1: 0.0}, stolen_s={0: 0.0, 1: 0.0}, own_s=0, cpus=frozenset({0, 1}),
                     swapped_pages=0)  # fmt: skip
        last = Look(time_s=10, busy_s=busy, stolen_s={0: 0.0, 1: 0.0}, own_s=own, cpus=frozenset({0, 1}),
                    swapped_pages=0)  # fmt: skip
        return [(first, last)]

    full = {0: 10.0, 1: 10.0}
    gathered = [
        ("a", "host-a", window(10.0, full)),
        ("a", "host-a", window(10.0, full)),
        ("b", "host-b", window(10.0, full)),
    ]
    found = DisturbanceWatch().found(SimpleNamespace(gather=lambda mine, root: gathered))
    assert found.host == "host-b"
    assert found.others_share.value == pytest.approx(0.5)
    assert DisturbanceWatch().found(SimpleNamespace(gather=lambda mine, root: None)) is None
