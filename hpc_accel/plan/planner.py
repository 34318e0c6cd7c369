"""A study and the machine's facts into a plan: candidates with predictions, which are chosen, and why.

Of the layouts and recipes that a study lists, all combinations that can work are chosen. With `layouts: auto` the best
by prediction are chosen, the serial run beside them for comparison. What cannot work is kept with its reason.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.plan.calibration import Calibration
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.heterogeneous import on_own_nodes, rank_speed, with_balanced_split
from hpc_accel.plan.memory_fit import memory_refusal
from hpc_accel.plan.predictable import not_probed
from hpc_accel.plan.prediction import Prediction, Prices, predict
from hpc_accel.plan.search import Found, Search
from hpc_accel.plan.software import torch_amp
from hpc_accel.probe.hardware import Hardware, checked_hardware
from hpc_accel.study.expand import Dropped, listed_runs, make_run, recipes, repeats, resolve_workload
from hpc_accel.study.expand_infer import inference_runs
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.rules import refusals
from hpc_accel.study.run import Objective, Resources, Run
from hpc_accel.study.study_file import Study, WorkloadChoice

NUM_SHOWN = 20
"""Predicted layouts per workload that a plan keeps, chosen or not: the file is read by people too."""

Pricing = Callable[[Resources], Prices | None]
"""What a node costs on average over those that a run takes."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One run that was considered."""

    run: Run
    chosen: bool
    why: str
    refused: ConfigError | None = None
    prediction: Prediction | None = None

    def to_json(self) -> dict[str, Any]:
        """As plan.json holds it."""
        error = self.refused
        content = self.run.model_dump(
            mode="json", include={"run_id", "repeat", "layout", "recipe", "resources", "infer"}
        )
        return content | {
            "workload": self.run.workload.name,
            "chosen": self.chosen,
            "why": self.why,
            "refused": {"value": error.value, "rule": error.rule, "remedy": error.remedy} if error else None,
            "prediction": self.prediction.to_json() if self.prediction else None,
        }


@dataclass(frozen=True, kw_only=True)
class SearchFacts:
    """What one workload's search went through."""

    workload: str
    num_enumerated: int
    num_feasible: int
    """All but those found not to fit or to break a rule; the slowest are not looked at one by one."""
    num_simulated: int
    refused: tuple[dict[str, Any], ...]
    """Rule, number of layouts it refuses, and the first of them in words."""
    search_time_s: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """plan.json before the site's resource requests are added."""

    study: str
    objective: Objective
    site: str
    hardware_sha256: str
    candidates: tuple[Candidate, ...]
    searches: tuple[SearchFacts, ...]
    dropped: tuple[Dropped, ...] = ()
    """Listed combinations that make no run."""
    notes: tuple[str, ...] = ()
    """What whoever reads the plan should know of all of it: GPUs not used, messages not measured."""

    def chosen_runs(self) -> list[Run]:
        """What will be measured, in turn: all once, then all again where repeats are asked for (A B A B)."""
        chosen = [candidate.run for candidate in self.candidates if candidate.chosen]
        return sorted(chosen, key=lambda run: run.repeat)

    def to_json(self) -> dict[str, Any]:
        """The content of plan.json."""
        return {
            "format": 1,
            "study": self.study,
            "objective": self.objective,
            "site": self.site,
            "hardware_sha256": self.hardware_sha256,
            "notes": list(self.notes),
            "searches": [asdict(search) for search in self.searches],
            "candidates": [*(each.to_json() for each in self.candidates), *map(_dropped_json, self.dropped)],
        }


def make_plan(
    study: Study,
    hardware: Hardware | dict[str, Any],
    facts: dict[str, ModelFacts],
    *,
    prices: Pricing | Prices | None = None,
    calibrations: Mapping[str, Calibration] | None = None,
) -> Plan:
    """Plan `study` on `hardware`; `facts` by workload name. Raises ConfigError when nothing that is listed can work.

    `prices` may depend on which nodes a run takes. `calibrations` are what workloads' own layers took, by name.
    """
    machine = hardware if isinstance(hardware, Hardware) else checked_hardware(hardware)
    candidates: dict[str, Candidate] = {}
    searches: list[SearchFacts] = []
    dropped: list[Dropped] = []
    speed = partial(rank_speed, machine) if study.resources.node_kinds is not None else None
    for choice in study.workloads:
        workload = resolve_workload(choice)
        models: dict[Recipe, StepModel] = {}
        measured = (calibrations or {}).get(workload.name)
        for recipe in recipes(choice.recipes, study.recipes):
            software = torch_amp(workload.optimizer, recipe, study.backend, facts[workload.name].optimizer)
            known = (facts[workload.name], machine, recipe.precision, software, study.backend)
            models[recipe] = StepModel(*known, calibration=measured)
        layouts = choice.layouts if choice.layouts is not None else study.layouts
        if layouts == "auto" and study.resources.node_kinds is not None:
            raise _unsearched(workload.name)
        planned: list[Candidate] = []
        if study.train and layouts == "auto":
            found, seconds = _search(study, choice, models)
            searches.append(_facts(workload.name, found, seconds))
            planned = _searched(study, found, models, prices)
        elif study.train:
            for run in listed_runs(study, choice, facts[workload.name], speed, dropped.append):
                balanced = with_balanced_split(run, facts[workload.name], speed) if speed is not None else run
                refused = _refused(balanced, study, facts[workload.name])
                planned.append(refused or _listed(balanced, on_own_nodes(models[run.recipe], balanced), prices))
        for run in inference_runs(study, choice, dropped.append):
            listed = Candidate(run=run, chosen=True, why="listed in the study, for inference")
            planned.append(_refused(run, study, facts[workload.name]) or listed)
        for candidate in planned:
            same = repeats(study, choice, candidate.run) if candidate.chosen else [candidate.run]
            for run in same:
                candidates.setdefault(run.run_id, replace(candidate, run=run))
    errors = [each.refused for each in candidates.values() if each.refused] + [each.error for each in dropped]
    if errors and not any(candidate.chosen for candidate in candidates.values()):
        raise _first_of(errors)
    return Plan(
        study=study.name,
        objective=study.objective,
        site=study.site,
        hardware_sha256=hashlib.sha256(machine.model_dump_json().encode()).hexdigest(),
        candidates=tuple(candidates.values()),
        dropped=tuple(dropped),
        searches=tuple(searches),
        notes=_notes(machine, candidates.values()),
    )


def _notes(machine: Hardware, candidates: Iterable[Candidate]) -> tuple[str, ...]:
    """Each once, in the order in which they come up."""
    unused = [kind.device_reason for kind in machine.node_kinds if kind.device_reason]
    predicted = [note for each in candidates if each.chosen and each.prediction for note in each.prediction.notes]
    return tuple(dict.fromkeys([*unused, *predicted]))


def _search(study: Study, choice: WorkloadChoice, models: dict[Recipe, StepModel]) -> tuple[Found, float]:
    workload = resolve_workload(choice)
    facts = next(iter(models.values())).facts
    search = Search(
        workload,
        models,
        study.resources,
        device=study.device,
        objective=study.objective,
        make_run=lambda layout, recipe: make_run(study, choice, workload, layout, recipe, facts),
    )
    start = time.perf_counter()
    found = search.run(max(study.search.keep, NUM_SHOWN))
    if not found.ranked:
        raise _nothing_fits(workload.name, found)
    return found, time.perf_counter() - start


def _searched(
    study: Study, found: Found, models: dict[Recipe, StepModel], prices: Pricing | Prices | None
) -> list[Candidate]:
    """The ranked candidates, the serial baselines, then one example of each refusal."""
    planned = []
    for rank, (_, run) in enumerate(found.ranked, start=1):
        why = f"predicted rank {rank} of {found.num_feasible} for {study.objective}{_ordering(study.objective)}"
        model = models[run.recipe]
        unknown = not_probed(run.recipe, model.kind, run.resources, model.calibration)
        why += f", as if without what was not probed ({unknown})" if unknown else ""
        disturbed = model.uncertain(run.layout, run.resources)
        why += f", though {disturbed}" if disturbed else ""
        if run in found.serial.values():
            planned.append(_candidate(run, models, prices, chosen=True, why=f"baseline; {why}"))
        else:
            planned.append(_candidate(run, models, prices, chosen=rank <= study.search.keep, why=why))
    planned += [_candidate(run, models, prices, chosen=True, why="baseline") for run in found.serial.values()]
    for refusal in found.refused.values():
        if refusal.run is not None:
            why = f"one of {refusal.count} refused by the same rule"
            planned.append(Candidate(run=refusal.run, chosen=False, why=why, refused=refusal.error))
    return planned


def _ordering(objective: Objective) -> str:
    return "" if objective == "time" else " (ordered by node-seconds: equal nodes cost and draw alike)"


def _candidate(
    run: Run, models: dict[Recipe, StepModel], prices: Pricing | Prices | None, *, chosen: bool, why: str
) -> Candidate:
    model = models[run.recipe]
    price = prices(run.resources) if callable(prices) else prices
    prediction = predict(run, model.facts, model.hardware, software=model.software, prices=price, model=model)
    return Candidate(run=run, chosen=chosen, why=why, prediction=prediction)


def _listed(run: Run, model: StepModel, prices: Pricing | Prices | None) -> Candidate:
    """A listed run is measured whatever is predicted of it; that it may not fit is said."""
    tight = memory_refusal(run.workload.name, run.layout, run.resources, model)
    why = "listed in the study" + (f"; may run out of memory: {tight.value}" if tight else "")
    return _candidate(run, {run.recipe: model}, prices, chosen=True, why=why)


def _refused(run: Run, study: Study, facts: ModelFacts) -> Candidate | None:
    """The run with the first rule that it breaks, or None."""
    error = next(refusals(run, study.resources, facts), None)
    return Candidate(run=run, chosen=False, why="listed in the study; cannot work", refused=error) if error else None


def _dropped_json(dropped: Dropped) -> dict[str, Any]:
    """A candidate without a run, as plan.json holds it."""
    error = dropped.error
    return {
        "run_id": None,
        "workload": dropped.workload,
        "layout": {key: value for key, value in dropped.layout.items() if value is not None},
        "recipe": dropped.recipe.model_dump(mode="json") if dropped.recipe else {},
        "chosen": False,
        "why": "listed in the study; makes no run",
        "refused": {"value": error.value, "rule": error.rule, "remedy": error.remedy},
        "prediction": None,
    }


def _facts(workload: str, found: Found, seconds: float) -> SearchFacts:
    refused = [
        {"rule": rule, "count": refusal.count, "first": refusal.error.value} for rule, refusal in found.refused.items()
    ]
    return SearchFacts(
        workload=workload,
        num_enumerated=found.num_enumerated,
        num_feasible=found.num_feasible,
        num_simulated=found.num_simulated,
        refused=tuple(refused),
        search_time_s=round(seconds, 3),
    )


def _first_of(errors: Sequence[ConfigError]) -> ConfigError:
    first, num_more = errors[0], len({error.value for error in errors}) - 1
    if not num_more:
        return first
    return ConfigError(f"{first.value} (and {num_more} more)", first.rule, first.remedy)


def _unsearched(name: str) -> ConfigError:
    return ConfigError(
        f"{name}: layouts auto with resources.node_kinds",
        "the search compares layouts of equal nodes; on nodes that differ it would compare what nobody would run",
        "list the layouts; with shares: auto, and split left out, each is balanced by the probed speeds",
    )


def _nothing_fits(name: str, found: Found) -> ConfigError:
    most = max(found.refused.values(), key=lambda refusal: refusal.count)
    return ConfigError(
        f"{name}: none of {found.num_enumerated} layouts can work; most often, {most.error.value}",
        most.error.rule,
        most.error.remedy,
    )
