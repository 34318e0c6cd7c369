"""What a workload's lists of layouts and recipes come to: the runs, and what is left out and why, as a plan does it."""

from __future__ import annotations

from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.request import plugin_resources
from hpc_accel.jobs.site import Site
from hpc_accel.study.expand import Dropped, listed_runs
from hpc_accel.study.expand_infer import inference_runs
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.rules import refusals
from hpc_accel.study.run import Run
from hpc_accel.study.study_file import Study, WorkloadChoice


def listed(
    study: Study, choice: WorkloadChoice, facts: ModelFacts, site: Site
) -> tuple[list[Run] | None, list[dict[str, Any]]]:
    """The runs that can work, and the combinations that cannot, each with its reason.

    None for the runs where the planner proposes layouts: it needs the probe. Raises ConfigError for what the site can
    never give.
    """
    dropped: list[Dropped] = []
    runs: dict[str, Run] = {}
    left_out: list[dict[str, Any]] = []
    found = list(listed_runs(study, choice, facts, drop=dropped.append)) if study.train else []
    for run in [*found, *inference_runs(study, choice, dropped.append)]:
        broken = next(refusals(run, study.resources, facts), None)
        if broken is None:
            plugin_resources(run, site)
            runs[run.run_id] = run
        else:
            left_out.append({"label": run.label, **_told(broken)})
    left_out += [{"label": _said(each), **_told(each.error)} for each in dropped]
    layouts = choice.layouts if choice.layouts is not None else study.layouts
    proposed = study.train and layouts == "auto"
    return None if proposed else list(runs.values()), left_out


def _told(error: ConfigError) -> dict[str, str]:
    return {"value": error.value, "rule": error.rule, "remedy": error.remedy}


def _said(dropped: Dropped) -> str:
    """The layout of a combination that makes no run, as the study says it; `serial` for one that says nothing."""
    usual = {"dp": 1, "pp": 1, "tp": 1, "shard": "none", "split": "auto", "order": "pp.dp.tp"}
    said = {key: value for key, value in dropped.layout.items() if value not in (None, False, usual.get(key))}
    return " ".join(f"{key} {value}" for key, value in said.items()) or "serial"
