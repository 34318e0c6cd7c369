"""Train models of the zoo in every column, in few launches, and say how each run ended: `trained(directory, names)`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from hpc_accel.errors import ConfigError
from hpc_accel.study.expand import listed_runs, resolve_workload
from hpc_accel.study.rules import refusals
from hpc_accel.study.run_file import read_run
from hpc_accel.study.study_file import Study
from hpc_accel.train.parity.store import compute_missing, directory_of
from hpc_accel.workloads import entry
from hpc_accel.workloads.count_facts import describe
from tests.mpirun import ENVIRONMENT, ROOT, mpirun
from tests.zoo.cases import COLUMNS, MODELS, OPTIMIZERS

SCRIPT = ROOT / "tests/train/many.py"
MEASURE = {"warmup_steps": 1, "steps": 1, "parity_steps": 2, "metric_samples": 0, "idle_s": 0}
WARNINGS = {"PYTHONWARNINGS": "error:Casting complex values"}
"""Whatever forgets imaginary parts ends its run."""
TIMEOUT_S = 400
MOST_LAUNCHES = 12
"""A run that fails ends its launch; those after it go on in another."""
Outcomes = dict[str, dict[str, str]]
"""By model and column: "works", "refused: rule", or what went wrong."""


def trained(directory: Path, names: Iterable[str], *, jobs: int = 1) -> Outcomes:
    """How each run of the models `names` ended; `jobs` parts of them are trained at the same time."""
    found: Outcomes = {name: {} for name in names}
    paths = {name: dict(_planned(directory, name, found[name])) for name in found}
    parts = [[path for name in list(paths)[job::jobs] for path in paths[name].values()] for job in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(_train, parts))
    for name, by_column in paths.items():
        found[name] |= {column: _outcome(path) for column, path in by_column.items()}
    return {name: {column: found[name][column] for column in COLUMNS} for name in found}


def _planned(directory: Path, name: str, found: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Runs of one model that are not refused, by column; the rules of the others go into `found`."""
    function = MODELS[name]
    workload = {"name": function.__name__.replace("_", "-"), "entry": f"{function.__module__}:{function.__name__}"}
    optimizer = OPTIMIZERS.get(name, {"name": "sgd", "learning_rate": 0.01})
    content = {"name": "zoo", "workload": {**workload, "global_batch_size": 16, "optimizer": optimizer}}
    facts = None
    for column, (layout, recipe) in COLUMNS.items():
        listed = {**content, "layouts": [layout], "recipes": [recipe], "measure": MEASURE}
        study = Study.model_validate({**listed, "resources": {"ranks_per_node": 4}, "device": "cpu"})
        choice = study.workloads[0]
        try:
            facts = facts or describe(entry.build(resolve_workload(choice), study.seed), tries_cut=True)
        except ConfigError as error:
            found[column] = f"refused: {error.rule}"
            continue
        (run,) = listed_runs(study, choice, facts)
        broken = list(refusals(run, study.resources, facts))
        if broken:
            found[column] = f"refused: {broken[0].rule}"
            continue
        path = directory / run.run_id / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(run.model_dump_json())
        yield column, path


def _train(paths: list[Path]) -> None:
    command = [sys.executable, "-m", "tests.zoo.train", *map(str, paths)]
    environment = {**os.environ, **ENVIRONMENT, **WARNINGS}
    subprocess.run(command, check=True, timeout=TIMEOUT_S, cwd=ROOT, env=environment)
    for num_ranks in (1, 2, 4):
        _launch(num_ranks, [path for path in paths if _num_ranks(path) == num_ranks])


def _num_ranks(path: Path) -> int:
    layout = json.loads(path.read_text())["layout"]
    return int(layout["dp"] * layout["pp"] * layout["tp"])


def _launch(num_ranks: int, paths: list[Path]) -> None:
    for _ in range(MOST_LAUNCHES):
        left = [path for path in paths if not _has_ended(path)]
        if not left:
            return
        result = mpirun(num_ranks, [SCRIPT, *left], TIMEOUT_S, **WARNINGS)
        first = next((path for path in left if not _has_ended(path)), None)
        if first is not None and not any(map(_errors, left)):
            _fail(first, "none", result.stdout[-500:])


def _fail(path: Path, kind: str, message: str) -> None:
    (path.parent / "error.rank0.json").write_text(json.dumps({"kind": kind, "message": message}))


def _errors(path: Path) -> list[Path]:
    return sorted(path.parent.glob("error.rank*.json"))


def _has_ended(path: Path) -> bool:
    return (path.parent / "summary.json").exists() or bool(_errors(path))


def _outcome(path: Path) -> str:
    summary = path.parent / "summary.json"
    if not summary.exists():
        errors = [json.loads(each.read_text()) for each in _errors(path)]
        return f"failed: {errors[0]['kind']}: {errors[0]['message'].strip().splitlines()[0]}" if errors else "not run"
    content = json.loads(summary.read_text())
    if content["status"] == "completed" and content["parity"]["passed"]:
        return "works"
    return f"{content['status']}: {content['parity']['reason']}"


def _references(paths: list[Path]) -> None:
    """The serial runs of all, in this process: started for each it would take most of the time."""
    by_model: dict[str, list[Path]] = {}
    for path in paths:
        by_model.setdefault(read_run(path).workload.entry, []).append(path)
    for alike in by_model.values():
        try:
            compute_missing([read_run(path) for path in alike], directory_of(alike[0].parent), torch.device("cpu"))
        except Exception as error:
            for path in alike:
                _fail(path, type(error).__name__, f"the serial run failed: {error}")


if __name__ == "__main__":
    _references(list(map(Path, sys.argv[1:])))
