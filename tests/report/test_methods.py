"""methods.md says what the records say, and nothing of what they do not know."""

from __future__ import annotations

import re

from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import methods
from hpc_accel.report.write import write
from tests.report.editing import edit_summary


def sections(text):
    """Title -> its lines."""
    found = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return {title: body.strip().splitlines() for title, body in zip(found[1::2], found[2::2], strict=True)}


def test_every_section_speaks_from_the_records(energy_study):
    write(energy_study)
    found = sections((energy_study / "methods.md").read_text())
    records = load(energy_study)
    facts = records.runs[0].summary.provenance
    assert f"- torch: {facts['torch']}" in found["Software"]
    assert f"- Python: {facts['python']}" in found["Software"]
    assert not any(line.startswith("- cuDNN") for line in found["Software"]), "no record knows it"
    assert "- MPI ranks: 2 (16 runs), 1 (6 runs), 4 (3 runs)" in found["Hardware"]
    assert any(line.startswith("- probed, MPI") for line in found["Hardware"])
    assert "- **lm**" in found["Models and data"]
    assert "- lm: dp2 fp32 x4 on 1 node, 2 ranks" in found["Layouts and recipes"]
    assert "- timed steps of each run: 30" in found["Procedure"]
    assert any("bootstrap" in line for line in found["Statistics"])
    assert "- scope: gpu-board" in found["Energy"]
    assert "- method: counter" in found["Energy"]
    assert any("largest relative error of a run that counts" in line for line in found["Parity"])


def test_what_was_left_out_and_not_measured_is_said(study):
    found = sections(methods.render(load(study)))
    assert any("1 wrong" in line and "1 missing" in line for line in found["Runs"])
    assert any("left out: digits" in line and "losses differ" in line for line in found["Runs"])
    assert len(found["Energy"]) == 1
    assert found["Energy"][0].startswith("- not measured: no readable sensor")


def test_runs_of_two_versions_are_counted(study):
    run = next(run for run in load(study).runs if run.counts)
    edit_summary(study, run.workload, run.label, lambda summary: summary["provenance"].update(torch="9.9.9"))
    (line,) = [line for line in sections(methods.render(load(study)))["Software"] if line.startswith("- torch: ")]
    assert re.fullmatch(r"- torch: \S+ \(\d+ runs\), 9\.9\.9 \(1 run\)", line)


def test_text_of_others_is_no_markdown(study):
    run = next(run for run in load(study).runs if run.counts)
    edit_summary(study, run.workload, run.label, lambda summary: summary["provenance"].update(cpu="<b>x</b>\n# [a](b)"))
    text = methods.render(load(study))
    assert "<b>" not in text.replace("\\<", "")
    assert "\n# [" not in text
    assert "\\<b\\>x\\</b\\> \\# \\[a\\](b)" in text
