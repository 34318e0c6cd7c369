"""Check a study: the file, the site, and each workload's code, tried in a process of its own. One process, no MPI."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_accel.check.apart import try_apart
from hpc_accel.errors import ConfigError, HpcAccelError, to_json
from hpc_accel.jobs.site import load_site
from hpc_accel.study.expand import resolve_workloads
from hpc_accel.study.results import owner_file
from hpc_accel.study.study_file import load_study


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a check found. `errors` are those that must be corrected before anything can be measured."""

    study: Path
    site: str
    workloads: tuple[dict[str, Any], ...]
    """One each, as `child.py` describes it; `name` and `error` alone where it failed."""
    errors: tuple[HpcAccelError, ...]
    time_s: float

    @property
    def num_runs(self) -> int | None:
        """Runs that are left to measure; None where the planner proposes them."""
        counts = [each["num_runs"] for each in self.workloads if "num_runs" in each]
        return None if None in counts else sum(counts)

    def lasting(self) -> dict[str, Any]:
        """What another check of the same files finds too: without times, so that what follows from it stays."""
        content = self.to_json()
        del content["time_s"]
        for each in content["workloads"]:
            each.pop("time_s", None)
        return content

    def to_json(self) -> dict[str, Any]:
        """As a program reads it."""
        return {
            "format": 1,
            "study": str(self.study),
            "site": self.site,
            "workloads": [dict(each) for each in self.workloads],
            "num_runs": self.num_runs,
            "errors": [to_json(error) for error in self.errors],
            "time_s": round(self.time_s, 3),
        }


def check_study(study_path: Path, *, limit_s: float, results: Path | None = None) -> Answer:
    """Check all that can be checked on one processor without MPI. `results` is where the study's results will lie.

    Raises ConfigError for a study or a site that cannot be read; what is wrong with a workload stands in the answer.
    """
    began_s = time.perf_counter()
    study = load_study(study_path)
    site = load_site(study.site)
    names = [workload.name for workload in resolve_workloads(study)]
    if results is not None:
        owner_file(results, study_path)
    found: list[dict[str, Any]] = []
    errors: list[HpcAccelError] = []
    for name, result in zip(names, try_apart(study_path, names, limit_s), strict=True):
        if isinstance(result, HpcAccelError):
            errors.append(result)
            found.append({"name": name, "error": to_json(result)})
        else:
            found.append({"name": name, **result})
    if not errors and (nothing := _nothing_left(found)):
        errors.append(nothing)
    return Answer(
        study=study_path,
        site=site.name,
        workloads=tuple(found),
        errors=tuple(errors),
        time_s=time.perf_counter() - began_s,
    )


def _nothing_left(workloads: list[dict[str, Any]]) -> ConfigError | None:
    """The error of a study that has no run, by the rules or because none of its layouts could be tried."""
    if any(each["num_runs"] is None or each["num_runs"] > len(each["would_fail"]) for each in workloads):
        return None
    reasons = [reason for each in workloads for reason in (*each["left_out"], *each["would_fail"])]
    if not reasons:
        return None
    first, num_more = reasons[0], len({each["value"] for each in reasons}) - 1
    more = f" (and {num_more} more)" if num_more else ""
    error = ConfigError(f"{first['value']}{more}", first["rule"], first["remedy"])
    error.where = first.get("where")
    return error
