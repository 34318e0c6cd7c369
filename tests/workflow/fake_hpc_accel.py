"""Stands in for `hpc-accel` where only the workflow is under test: the real scripts and run ids, no torch, no MPI.

How often `train` fails is read from a file `fail/<layout label>` in the working directory: `<times> <exit code>`.
"""

import json
import os
import sys
import time
from pathlib import Path

from hpc_accel.cli import main as real_main
from hpc_accel.jobs import write
from hpc_accel.jobs.script import pack_name
from hpc_accel.study.expand import listed_runs
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.references import planned_references
from hpc_accel.study.run import Run
from hpc_accel.study.study_file import load_study

FACTS = ModelFacts(layers=(), num_samples=1797, sample_bytes=256, sequential=True, tp_units=None)
HERE = Path.cwd()
TABLES = ("summary.csv", "summary.parquet", "summary.json")
REPORT = ("report.html", *TABLES, "methods.md", "ro-crate-metadata.json", "answer.txt")


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def note(text: str) -> None:
    with (HERE / "calls.txt").open("a") as calls:
        calls.write(text + "\n")


def plan(path: Path, out: Path) -> None:
    study = load_study(path)
    runs = [run for choice in study.workloads for run in listed_runs(study, choice, FACTS)]
    candidates = [{"run_id": run.run_id, "chosen": True, "run": run.model_dump(mode="json")} for run in runs]
    pack = {"run_id": pack_name(runs)} if study.same_allocation else None
    out.write_text(json.dumps({"candidates": candidates, "pack": pack, "references": planned_references(runs)}))


def train(path: Path) -> int:
    run = Run.model_validate_json(path.read_text())
    note(f"train {run.layout.label}")
    if (HERE / "slow").exists():
        for step in range(30):
            print(f"step {step} of 30", file=sys.stderr, flush=True)
            time.sleep(1)
    fail = HERE / "fail" / run.layout.label
    if fail.exists():
        times, code = fail.read_text().split()
        if int(times):
            fail.write_text(f"{int(times) - 1} {code}")
            if int(code) == 137:
                os.kill(os.getpid(), 9)
            return int(code)
    path.with_name("summary.json").write_text(json.dumps({"run_id": run.run_id, "status": "completed"}))
    return 0


def main() -> int:
    command = sys.argv[1]
    if command in {
        "supervise",
        "pack",
        "run-script",
        "failures",
        "sources",
        "watch-queue",
        "leave-queue",
        "run",
        "watch",
    }:  # what the workflow's jobs are made of
        real_main()
    path = Path(sys.argv[2])
    places = write.Places(root=HERE, environment=Path(os.environ["FAKE_ENVIRONMENT"]))
    if command == "script" and "--probe" in sys.argv:
        path = Path(sys.argv[3])
        write.write_probe(load_study(path), path, Path(option("--out")), places)
    elif command == "script":
        write.write_planned(path, option("--run"), places)
    elif command == "check":
        note("check")
        broken = HERE / "broken"
        if broken.exists():
            print(broken.read_text())
            return 78
        Path(option("--out")).write_text("{}\n")
    elif command == "probe":
        note("probe")
        Path(option("--out")).write_text("{}\n")
    elif command == "plan":
        note("plan")
        plan(path, Path(option("--out")))
    elif command == "reference":
        note(f"reference {path.parent.name.rpartition('-')[0]}")
        Path(option("--out")).write_text("{}\n")
    elif command == "train":
        return train(path)
    elif command == "report":
        note("report")
        records = [json.loads(file.read_text()) for file in sorted(path.glob("runs/*/summary.json"))]
        text = "".join(f"{record['run_id']} {record['status']}\n" for record in records)
        for name in REPORT:
            (path / name).write_text(text)
    return 0


sys.exit(main())
