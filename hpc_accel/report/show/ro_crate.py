"""ro-crate-metadata.json: the results directory as a research object (RO-Crate 1.1, https://w3id.org/ro/crate/1.1).

The files of the report and the directories of the runs are data entities. Each run is a CreateAction with its software,
begin, end and result, so that an archive or a catalogue can read what was measured, when and with what. Nothing here is
not in a record.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords

NAME = "ro-crate-metadata.json"
VERSION = "https://w3id.org/ro/crate/1.1"
FILES = {
    "report.html": ("The report, one page", "text/html"),
    "answer.txt": ("The answer in a few lines", "text/plain"),
    "methods.md": ("Hardware, software and procedure", "text/markdown"),
    "summary.csv": ("One row for each run", "text/csv"),
    "summary.parquet": ("One row for each run, all columns", "application/vnd.apache.parquet"),
    "summary.json": ("One row for each run, for programs", "application/json"),
    "inference.csv": ("One row for each arrival rate", "text/csv"),
    "plan.json": ("Every candidate with its prediction", "application/json"),
    "hardware.json": ("The machine, as probed", "application/json"),
}
LICENCE = {
    "@id": "#licence",
    "@type": "CreativeWork",
    "name": "No licence stated",
    "description": "The records name no licence of these results: ask the people who measured them.",
}
WRITTEN_LATER = frozenset(("answer.txt",))
"""The last file of a report, so that whoever waits for it finds the others."""


def render(records: StudyRecords) -> str:
    """The whole file, made when the report's other files are there."""
    runs = [run for run in records.measurements if run.has_record]
    files = [_file(records.directory, name, *FILES[name]) for name in FILES if _is_there(records.directory, name)]
    used = {software["@id"]: software for run in runs for software in _software(run)}
    parts = [_part(records.directory, run) for run in runs]
    graph = [
        {
            "@id": NAME,
            "@type": "CreativeWork",
            "about": {"@id": "./"},
            "conformsTo": {"@id": VERSION},
        },
        {
            "@id": "./",
            "@type": "Dataset",
            "name": f"Results of study {records.study}",
            "description": f"Step time, memory, energy and parity of {len(records.measurements)} runs of study "
            f"{records.study} at site {records.site}, measured by hpc-accel; methods.md says how.",
            "datePublished": _date(runs),
            "license": {"@id": LICENCE["@id"]},
            "hasPart": [{"@id": each["@id"]} for each in (*files, *parts)],
            "mentions": [{"@id": _action_id(run)} for run in runs],
        },
        LICENCE,
        *files,
        *parts,
        *used.values(),
        *(_action(records.directory, run) for run in runs),
    ]
    return json.dumps({"@context": f"{VERSION}/context", "@graph": graph}, indent=1, ensure_ascii=False) + "\n"


def _is_there(directory: Path, name: str) -> bool:
    return name in WRITTEN_LATER or (directory / name).is_file()


def _date(runs: list[RunRecord]) -> str:
    """The day that the last run ended; of a study without any, today."""
    ended = [run.summary.ended_utc for run in runs if run.summary.ended_utc]
    return max(ended)[:10] if ended else datetime.now(UTC).date().isoformat()


def _directory(directory: Path, run: RunRecord) -> str:
    return quote(f"{run.directory.relative_to(directory)}/")


def _file(directory: Path, path: str, name: str, kind: str) -> dict[str, Any]:
    content: dict[str, Any] = {"@id": quote(path), "@type": "File", "name": name, "encodingFormat": kind}
    if path not in WRITTEN_LATER:
        content["contentSize"] = str((directory / path).stat().st_size)
    return content


def _part(directory: Path, run: RunRecord) -> dict[str, Any]:
    """The directory of a run; record.md says which files are in it."""
    return {"@id": _directory(directory, run), "@type": "Dataset", "name": f"{run.workload} {run.label}"}


def _software(run: RunRecord) -> list[dict[str, Any]]:
    """What measured the run, and what it was measured with, each version once."""
    names = {"hpc_accel": "hpc-accel", "torch": "PyTorch", "mpi_library": "MPI library", "python": "Python"}
    found = []
    for key, name in names.items():
        version = run.summary.provenance.get(key)
        if version:
            text = str(version)
            found.append({
                "@id": f"#{quote(f'{key}-{text}', safe='')}",
                "@type": "SoftwareApplication",
                "name": name,
                "softwareVersion": text,
            })  # fmt: skip
    return found


def _action_id(run: RunRecord) -> str:
    return f"#run-{quote(run.run_id, safe='')}"


def _action(directory: Path, run: RunRecord) -> dict[str, Any]:
    """The run as something that was done."""
    state = "Completed" if run.summary.status in ("completed", "wrong") else "Failed"
    content: dict[str, Any] = {
        "@id": _action_id(run),
        "@type": "CreateAction",
        "name": f"{run.workload} {run.label}",
        "description": f"status: {run.status}",
        "actionStatus": {"@id": f"http://schema.org/{state}ActionStatus"},
        "instrument": [{"@id": each["@id"]} for each in _software(run)],
        "object": [{"@id": "plan.json"}],
        "result": [{"@id": _directory(directory, run)}],
    }
    if run.summary.started_utc:
        content["startTime"] = run.summary.started_utc
    if run.summary.ended_utc:
        content["endTime"] = run.summary.ended_utc
    if run.summary.error is not None:
        content["error"] = run.summary.error.message
    return content
