"""What follows from an energy figure: unknown stays unknown."""

from __future__ import annotations

from hpc_accel.measure.energy import derived


def test_nothing_is_divided_by_or_from_the_unknown():
    assert derived.per(None, 10) is None
    assert derived.per(5.0, 0) is None
    assert derived.per(5.0, None) is None
    assert derived.energy_delay_product_js(None, 1) is None


def test_joules_per_something_and_times_seconds():
    assert derived.per(50.0, 10) == 5.0
    assert derived.energy_delay_product_js(10.0, 2.0) == 20.0
