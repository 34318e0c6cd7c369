"""What changed between the runs that are compared: sources, software, the tool itself, machine, site file.

A comparison says what differs between layouts only where nothing else does. So runs of one workload are held against
the way that most of them were measured in, and what differs is named, run by run. Nothing is left out for it: the
reader decides, and is told how to measure alike.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from hpc_accel.report.judge import wording
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords

PACKAGES = ("hpc_accel", "torch", "mpi4py", "numpy", "zeus", "triton", "transformers", "torchvision", "monai", "python")
LIBRARIES = {
    "mpi_library": "MPI library",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "nccl": "NCCL",
    "nvidia_driver": "NVIDIA driver",
}
MACHINE = {"cpu": "processor", "num_cpus": "number of CPUs", "gpus": "GPU", "container": "container"}
REMEDY = "to compare alike, delete their summary.json and start the study again"
MOST_FACTS = 4
"""Of each group of runs, named on one line; the page has all under `provenance`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Runs of one workload that were measured otherwise than the others, and in what."""

    workload: str
    labels: tuple[str, ...]
    others: tuple[str, ...]  # labels of those measured in the usual way
    facts: tuple[str, ...]
    has_other_code: bool

    @property
    def text(self) -> str:
        """`dp2 fp32 x1 measured with another mine_model.py, torch 2.9.1 (not 2.8.0), unlike serial fp32 x1`."""
        facts = list(self.facts[:MOST_FACTS])
        more = len(self.facts) - len(facts)
        told = ", ".join(facts) + (f" and {more} more" if more else "")
        other = ", so their times are those of other code" if self.has_other_code else ""
        unlike = f", unlike {wording.named(self.others)}" if self.others else ""
        return f"{wording.named(self.labels)} measured with {told}{unlike}{other}"


def differences(records: StudyRecords) -> list[Difference]:
    """Of each workload's runs that count, repeats one by one; training and inference apart."""
    groups: dict[tuple[str, bool], list[RunRecord]] = {}
    for run in records.measurements:
        if run.counts:
            groups.setdefault((run.workload, run.is_inference), []).append(run)
    return [found for (workload, _), runs in groups.items() for found in _among(workload, runs)]


def _among(workload: str, runs: list[RunRecord]) -> list[Difference]:
    facts = [facts_of(run) for run in runs]
    names = list(dict.fromkeys(name for each in facts for name in each))
    usual = {name: _most_common([each.get(name, "") for each in facts]) for name in names}
    odd: dict[tuple[str, ...], list[RunRecord]] = {}
    for run, each in zip(runs, facts, strict=True):
        own = {name: value for name, value in each.items() if value not in ("", usual[name])}
        told = tuple(words(name, value, usual[name]) for name, value in own.items())
        odd.setdefault(told, []).append(run)
    others = tuple(run.label for run in odd.pop((), []))
    return [
        Difference(
            workload=workload,
            labels=tuple(run.label for run in group),
            others=others,
            facts=told,
            has_other_code=any(_is_source(name) and each != usual[name] for name, each in facts_of(group[0]).items()),
        )
        for told, group in odd.items()
    ]


def _is_source(name: str) -> bool:
    return name.startswith("source ")


def _most_common(values: list[str]) -> str:
    """What most of the runs have that know it; the first of several that are equally frequent."""
    return Counter(filter(None, values)).most_common(1)[0][0] if any(values) else ""


def facts_of(run: RunRecord) -> dict[str, str]:
    """What a run was measured with by name, the weightiest first; empty where it is not known."""
    known = run.summary.provenance
    sources = safe_json.mapping(run.run, "workload", "sources")
    found = {f"source {path}": str(digest) for path, digest in sources.items()}
    found |= {key: _text(known.get(key)) for key in PACKAGES}
    found["git"] = _text(known.get("git"))
    found |= {title: _text(known.get(key)) for key, title in LIBRARIES.items()}
    names = sorted({_text(board.get("name")) for board in safe_json.items(known, "gpus")})
    machine = {**known, "gpus": ", ".join(names)}
    found |= {title: _text(machine.get(key)) for key, title in MACHINE.items()}
    if run.summary.job_id is None:  # in Slurm's queue each run may get other nodes of the same kind
        found["host"] = ", ".join(run.summary.hosts)
    for path, digest in safe_json.mapping(run.job, "written_from").items():
        found[f"file {path}"] = _text(digest)
    return found


def _text(value: object) -> str:
    return "" if value is None else safe_json.clean(str(value))


def words(name: str, value: str, usual: str) -> str:
    """One fact: `torch 2.9.1 (not 2.8.0)`, `another mine_model.py`."""
    kind, _, path = name.partition(" ")
    if kind in ("source", "file"):
        return f"another {safe_json.clean(path)}"
    show = _commit if name == "git" else str
    title = {"git": "the tool's commit", "hpc_accel": "hpc-accel"}.get(name, name)
    return f"{title} {show(value)} (not {show(usual)})"


def _commit(text: str) -> str:
    """Twelve digits name a commit; what stands behind them stays."""
    return re.sub(r"^([0-9a-f]{12})[0-9a-f]*", r"\1", text)
