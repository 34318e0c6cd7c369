"""The run that a study's plan calls by its id or label, and the model that predicts it, built as for the plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.plan.calibration import load_calibrations, subject_of
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.prediction import Prediction, predict
from hpc_accel.plan.shipped import hardware_of, hardware_path
from hpc_accel.plan.software import torch_amp
from hpc_accel.study.expand import make_run, resolve_workload
from hpc_accel.study.layout import Layout
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Run
from hpc_accel.study.study_file import Study, WorkloadChoice, load_study


def found_run(study_path: Path, name: str, hardware: str) -> tuple[Run, StepModel, Prediction, Path]:
    """The run, its model, its prediction, and where its records would lie. Raises ConfigError."""
    study = load_study(study_path)
    results = Path("results", study.name)
    path = hardware_path(hardware or str(results / "hardware.json"))
    plan = results / "plan.json" if not hardware else results / "plans" / f"{path.stem}.json"
    plan = plan if plan.is_file() else results / "plan.json"
    candidate = _candidate(plan, name)
    run, model = _model(study, candidate, path, hardware or str(path))
    if run.run_id != candidate["run_id"]:
        raise ConfigError(
            f"{plan} has {candidate['run_id']}, which {study_path} and its model now make {run.run_id}",
            "what is explained is what was planned",
            "plan again: hpc-accel plan STUDY; or undo what was edited since",
        )
    return run, model, predict(run, model.facts, model.hardware, software=model.software, model=model), results


def _candidate(plan: Path, name: str) -> dict[str, Any]:
    """Of the plan, by run_id, by its beginning, or by label."""
    try:
        content = json.loads(plan.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{plan}: {error}", "what is explained is a candidate of a plan", "plan first: hpc-accel plan STUDY"
        ) from None
    known = [each for each in content["candidates"] if each.get("run_id") and each.get("prediction")]
    found = [each for each in known if each["run_id"] == name] or [
        each for each in known if each["run_id"].startswith(name)
    ]
    if len(found) != 1:
        some = ", ".join(each["run_id"] for each in (found or known)[:8])
        raise ConfigError(
            f"run {name!r}: {len(found)} of {len(known)} predicted candidates of {plan}",
            "a run_id, or its beginning as far as it names one",
            f"name one of: {some}",
        )
    return dict(found[0])


def _choice(study: Study, workload: str) -> WorkloadChoice:
    found = next((each for each in study.workloads if resolve_workload(each).name == workload), None)
    if found is None:
        raise ConfigError(
            f"workload {workload} of the plan is not in the study",
            "what is explained is what was planned",
            "plan again: hpc-accel plan STUDY; or undo what was edited since",
        )
    return found


def planned_run(study: Study, candidate: dict[str, Any], facts: ModelFacts) -> Run:
    """The run of a candidate of `study`'s plan; `facts` are its workload's."""
    choice = _choice(study, candidate["workload"])
    recipe, layout = Recipe(**candidate["recipe"]), Layout(**candidate["layout"])
    return make_run(study, choice, resolve_workload(choice), layout, recipe, facts)


def _model(study: Study, candidate: dict[str, Any], path: Path, named: str) -> tuple[Run, StepModel]:
    from hpc_accel.workloads.facts_without_weights import facts_of

    choice = _choice(study, candidate["workload"])
    workload = resolve_workload(choice)
    facts = facts_of(workload, study.seed)
    once = planned_run(study, candidate, facts)
    run = Run.model_validate({**once.model_dump(exclude={"run_id"}), "repeat": candidate["repeat"]})
    return run, model_for(study, run, facts, path, named)


def model_for(study: Study, run: Run, facts: ModelFacts, path: Path, named: str) -> StepModel:
    """The model that predicts `run`, with the calibration beside the hardware file at `path`."""
    hardware, workload, recipe = hardware_of(named), run.workload, run.recipe
    measured = load_calibrations(path.parent / "calibration.json", path.read_bytes())
    subject = subject_of(workload, facts, study, hardware)
    calibrations = measured.holding({workload.name: subject}, path)[0] if measured is not None else {}
    software = torch_amp(workload.optimizer, recipe, study.backend, facts.optimizer)
    known = (facts, hardware, recipe.precision, software, study.backend)
    return StepModel(*known, calibration=calibrations.get(workload.name))
