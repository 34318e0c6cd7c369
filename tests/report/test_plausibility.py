"""Figures that are too good: said, with what to do, and corrected nowhere."""

from __future__ import annotations

import pytest

from hpc_accel.report.judge.answer import answer
from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import check_tables, summary_csv, summary_table
from tests.report.editing import edit_summary, set_time


def doubted(study, words):
    return [each["runs"] for each in check_tables.warnings(load(study)) if words in each["text"]]


@pytest.mark.parametrize(("mfu", "found"), [(1.01, ["mlp dp2 fp32 x1"]), (1.0, []), (None, [])])
def test_more_than_the_probed_peak(study, mfu, found):
    figure = {"value": mfu, "reason": "" if mfu else "not probed"}
    edit_summary(study, "mlp", "dp2 fp32 x1", lambda s: s["flops"]["mfu"].update(figure))
    assert doubted(study, "more than the peak the probe found") == found
    assert summary_csv.render(summary_table.rows(load(study))).count("delete hardware.json and probe again") == len(
        found
    )


def serial_ms(study):
    serial = next(run for run in load(study).of("mlp") if run.kind == "serial")
    times = serial.summary.step_time_ms
    return times.ci_low, times.value


def test_more_than_the_ranks_can_give(study):
    assert doubted(study, "speed-up above") == []
    edit_summary(study, "mlp", "dp2 fp32 x1", set_time(serial_ms(study)[0] / 2 * 0.99))
    assert doubted(study, "speed-up above its 2 ranks") == ["mlp dp2 fp32 x1"]
    [told] = [text for name, text in answer(load(study)).details[3].parts if name == "mlp"]
    assert "(more than they can give: see the warnings)" in told


def test_a_speed_up_that_may_be_less_is_believed(study):
    edit_summary(study, "mlp", "dp2 fp32 x1", set_time(serial_ms(study)[1] / 2))
    assert doubted(study, "speed-up above") == []
