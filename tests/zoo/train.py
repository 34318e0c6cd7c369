"""Train every model of the zoo in every column, few launches, and say how each ended: `trained(directory)`."""

import json
import os
import subprocess
import sys
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
from tests.zoo.cases import LAYOUTS, MODELS, RECIPES

SCRIPT = ROOT / "tests/train/many.py"
MEASURE = {"warmup_steps": 1, "steps": 1, "parity_steps": 2, "metric_samples": 0, "idle_s": 0}
TIMEOUT_S = 900
MOST_LAUNCHES = 12
"""A run that fails ends its launch; those after it go on in another."""


def trained(directory: Path, names=tuple(MODELS)) -> dict[tuple[str, str], str]:
    """(model, column) -> "works", "refused: rule", or what went wrong."""
    found: dict[tuple[str, str], str] = {}
    paths: dict[Path, tuple[str, str]] = {}
    for name in names:
        for column, path in _planned(directory, name, found):
            paths[path] = (name, column)
    command = [sys.executable, "-m", "tests.zoo.train", *map(str, paths)]
    subprocess.run(command, check=True, timeout=TIMEOUT_S, cwd=ROOT, env={**os.environ, **ENVIRONMENT})
    paths_left = [path for path in paths if not _has_ended(path)]
    for num_ranks in (1, 2, 4):
        _launch(num_ranks, [path for path in paths_left if _num_ranks(path) == num_ranks])
    return found | {case: _outcome(path) for path, case in paths.items()}


def _planned(directory, name, found):
    """Runs of one model that are not refused, by column; the rules of the others go into `found`."""
    function = MODELS[name]
    workload = {"name": function.__name__.replace("_", "-"), "entry": f"{function.__module__}:{function.__name__}"}
    workload |= {"global_batch_size": 16, "optimizer": {"name": "sgd", "learning_rate": 0.01}}
    columns = {**{column: (layout, {}) for column, layout in LAYOUTS.items()}, **RECIPES}
    facts = None
    for column, (layout, recipe) in columns.items():
        content = {"name": "zoo", "workload": workload, "layouts": [layout], "recipes": [recipe], "measure": MEASURE}
        study = Study.model_validate({**content, "resources": {"ranks_per_node": 4}, "device": "cpu"})
        choice = study.workloads[0]
        try:
            facts = facts or describe(entry.build(resolve_workload(choice), study.seed))
        except ConfigError as error:
            found[name, column] = f"refused: {error.rule}"
            continue
        (run,) = listed_runs(study, choice, facts)
        broken = list(refusals(run, study.resources, facts))
        if broken:
            found[name, column] = f"refused: {broken[0].rule}"
            continue
        path = directory / run.run_id / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(run.model_dump_json())
        yield column, path


def _num_ranks(path):
    layout = json.loads(path.read_text())["layout"]
    return layout["dp"] * layout["pp"] * layout["tp"]


def _launch(num_ranks, paths):
    for _ in range(MOST_LAUNCHES):
        left = [path for path in paths if not _has_ended(path)]
        if not left:
            return
        result = mpirun(num_ranks, [SCRIPT, *left], TIMEOUT_S)
        first = next((path for path in left if not _has_ended(path)), None)
        said_why = any(list(path.parent.glob("error.rank*.json")) for path in left)
        if first is not None and not said_why:
            (first.parent / "error.rank0.json").write_text(
                json.dumps({"kind": "none", "message": result.stdout[-500:]})
            )


def _has_ended(path):
    return (path.parent / "summary.json").exists() or bool(list(path.parent.glob("error.rank*.json")))


def _outcome(path):
    summary = path.parent / "summary.json"
    if not summary.exists():
        errors = [json.loads(each.read_text()) for each in sorted(path.parent.glob("error.rank*.json"))]
        return f"failed: {errors[0]['kind']}: {errors[0]['message'].splitlines()[0]}" if errors else "not run"
    content = json.loads(summary.read_text())
    if content["status"] == "completed" and content["parity"]["passed"]:
        return "works"
    return f"{content['status']}: {content['parity']['reason']}"


def _references(paths):
    """The serial runs of all, in this process: started for each it would take most of the time."""
    by_model: dict[str, list[Path]] = {}
    for path in paths:
        by_model.setdefault(read_run(path).workload.entry, []).append(path)
    for alike in by_model.values():
        try:
            compute_missing([read_run(path) for path in alike], directory_of(alike[0].parent), torch.device("cpu"))
        except Exception as error:
            content = {"kind": type(error).__name__, "message": f"the serial run failed: {error}"}
            for path in alike:
                (path.parent / "error.rank0.json").write_text(json.dumps(content))


if __name__ == "__main__":
    _references(list(map(Path, sys.argv[1:])))
