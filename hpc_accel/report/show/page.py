"""report.html: one file that needs no network, in which no record's text can become markup or script.

Jinja2 escapes every value; figures travel as a JSON block in which `<`, `>` and `&` are written as escapes; the content
security policy allows exactly the script of this page, by its digest, and no connection at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from hpc_accel.report.judge import plausibility, wording
from hpc_accel.report.judge.answer import Answer
from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show import (
    cards,
    check_tables,
    energy_tables,
    figures,
    hardware_tables,
    inference_tables,
    job_tables,
    page_tables,
    production_tables,
    refusals,
    run_table,
)

SCRIPTS = ("chart.js", "charts.js", "table.js", "report.js")
MAX_LISTED = 500
"""Refused and left-out candidates shown; plan.json has all of them."""


def render(records: StudyRecords, answer: Answer) -> str:
    """The whole page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hpc_accel.report.show", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = "\n".join(map(_asset, SCRIPTS))
    rows = run_table.table(records)
    sections, specs = _sections(records)
    charts, more_specs = _inference_charts(records)
    production, production_specs = production_tables.sections(records.trainings)
    return environment.get_template("report.html.j2").render(
        policy=_policy(script),
        # Our own files, not data: the only values that are not escaped.
        style=Markup(_asset("report.css")),
        script=Markup(script),
        figures_json=Markup(json_block(specs | more_specs | production_specs)),
        records=records,
        answer=answer,
        ranked_words=ranked_words(records, answer),
        cards=cards.cards(records),
        sections=sections,
        inference=_inference(records, charts),
        production=production,
        columns=run_table.COLUMNS,
        rows=rows,
        most_rows=run_table.MAX_WITHOUT_SCRIPT,
        links=page_tables.links,
        table_json=Markup(json_block(run_table.to_json(rows, answer.winners))),
        statuses=sorted({run.status for run in records.runs}),
        not_counting=page_tables.not_counting(records),
        damaged=page_tables.damaged(records),
        gaps=page_tables.gap_rows(records),
        refusals=refusals.refusals(records),
        refused=page_tables.refused(records),
        left_out=page_tables.left_out(records),
        searched=page_tables.searched(records),
        max_listed=MAX_LISTED,
        hardware=hardware_tables.rows(records.hardware),
        sensors=hardware_tables.sensors(records.hardware),
        provenance=page_tables.provenance(records),
        energies=energy_tables.rows(records),
        energy_titles=energy_tables.TITLES,
        estimates=energy_tables.estimates(records),
        checks=check_tables.rows(records),
        warnings=check_tables.warnings(records),
        jobs=job_tables.rows(records),
        overhead=job_tables.words(records),
    )


def ranked_words(records: StudyRecords, answer: Answer) -> str:
    """`all 21 runs finished and compute what the serial run does; 3 were disturbed while they were measured`."""
    whole = f"{answer.num_ranked} of {wording.counted(answer.num_runs, 'run')}"
    if answer.num_ranked == answer.num_runs:
        whole = f"all {wording.counted(answer.num_runs, 'run')}"
    runs = (*records.runs, *records.inference_runs)
    disturbed = sum(run.counts and plausibility.is_disturbed(run) for run in runs)
    told = f"; {disturbed} of them disturbed by other processes" if disturbed else ""
    lost = sum(run.counts and not each.counts for run in runs for each in run.repeats)
    told += f"; {wording.counted(lost, 'repeat')} of them did not" if lost else ""
    return f"{whole} finished and passed the comparison with the serial run{told}"


def _sections(records: StudyRecords) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The charts of each workload, and the figures under the ids of their places."""
    sections, specs = [], {}
    for number, workload in enumerate(records.workloads):
        runs = records.of(workload)
        charts = []
        for figure in figures.of_workload(runs):
            place = f"figure-{number}-{figure.key}"
            charts.append({"place": place, "figure": figure, "full": figure.gap is not None})
            if figure.spec is not None:
                specs[place] = {**figure.spec, "height": figure.height_px}
        charts.sort(key=lambda chart: bool(chart["full"]))  # sentences in the place of charts stand last
        drawn = [chart for chart in charts if not chart["full"]]
        if len(drawn) % 2:
            # Two stand side by side; the last of an odd number gets the whole row.
            drawn[-1]["full"] = True
        counting = sum(run.counts for run in runs)
        sections.append(
            {
                "anchor": f"workload-{number}",
                "workload": workload,
                "charts": charts,
                "num_runs": wording.counted(len(runs), "run"),
                "num_counting": counting,
                "startup": page_tables.startup(runs),
            }
        )
    return sections, specs


def _inference(records: StudyRecords, charts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the section on inference shows; None for a study that only trains."""
    if not records.inference_runs:
        return None
    latencies = inference_tables.latency_rows(records)
    return {
        "charts": charts,
        "cards": inference_tables.cards(records),
        "runs": inference_tables.run_rows(records),
        "notes": inference_tables.notes(records),
        "latencies": latencies,
        "energy_reason": next((row["energy_reason"] for row in latencies if row["energy_reason"]), None),
        "generation": inference_tables.generation_rows(records),
    }


def _inference_charts(records: StudyRecords) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One chart per workload with inference runs."""
    charts, specs = [], {}
    for number, workload in enumerate(records.inference_workloads):
        for figure in figures.latency.figures(records.inference_runs_of(workload)):
            place = f"inference-{number}-{figure.key}"
            charts.append({"place": place, "figure": figure, "workload": workload})
            if figure.spec is not None:
                specs[place] = {**figure.spec, "height": figure.height_px}
    return charts, specs


def json_block(content: Any) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element or open another."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(script: str) -> str:
    """The content security policy: this script, inline styles, images made here; no address."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return (resources.files("hpc_accel.report.show") / "template" / name).read_text(encoding="utf-8")
