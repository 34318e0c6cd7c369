"""Scripts on disk, each with its request: of all runs of a plan or of one, of the probe, of a pack, of a reference."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.files import read_json, write_atomically
from hpc_accel.jobs import frequency_options, script
from hpc_accel.jobs.request import pack_resources, probe_resources, reference_resources, request_file
from hpc_accel.jobs.site import Site, load_site, site_file
from hpc_accel.study.references import RUNS, one_of_each, runs_by_reference
from hpc_accel.study.run import Run
from hpc_accel.study.run_file import read_run, write_run_file
from hpc_accel.study.sources import digest
from hpc_accel.study.study_file import Study


@dataclass(frozen=True)
class Places:
    """Where scripts start, and the environment they use when their site names none."""

    root: Path = field(default_factory=Path.cwd)
    environment: Path = Path(sys.prefix)


def write_run(run: Run, run_dir: Path, places: Places | None = None, site: Site | None = None) -> Path:
    """job.sbatch and request.json of one run in its directory; the script's path."""
    places, site, run_dir = places or Places(), site or load_site(run.site), run_dir.resolve()
    text = script.render(run, site, root=places.root, run_dir=run_dir, environment=places.environment)
    _write_request(run_dir / "request.json", request_file(run.resources, site, run.recipe), run.site)
    return _write_script(run_dir / "job.sbatch", text)


def write_runs_below(directory: Path) -> list[Path]:
    """The scripts of every run.json below `directory`. Raises ConfigError when there is none."""
    paths = sorted(directory.glob("**/run.json"))
    if not paths:
        raise ConfigError(
            f"no run.json below {directory}", "a script is written for a run", "give a plan.json: hpc-accel plan"
        )
    site_of, places = cache(load_site), Places()
    written = []
    for path in paths:
        run = read_run(path)
        written.append(write_run(run, path.parent, places, site_of(run.site)))
    return written


def write_planned(plan: Path, run_id: str | None = None, places: Places | None = None) -> list[Path]:
    """run.json, job.sbatch and request.json of the runs that a plan chose, with the scripts of their references and
    their pack; or only what has the name `run_id`.

    Raises ConfigError when there is no such plan or run.
    """
    content, results = read_json(plan), plan.resolve().parent
    runs = chosen_runs(content, plan)
    pack = content.get("pack")
    if run_id is not None and pack and run_id == pack["run_id"]:
        return [write_pack(list(runs.values()), results, run_id, places)]
    references = runs_by_reference(runs.values())
    if run_id is not None and run_id in references:
        return [write_reference(references[run_id], results, run_id, places)]
    if run_id is not None and run_id not in runs:
        raise ConfigError(
            f"run {run_id!r}", f"{plan} chose {len(runs)} run(s), not this one", "look for `run_id` in it"
        )
    site_of = cache(load_site)
    written = []
    for run in runs.values() if run_id is None else [runs[run_id]]:
        run_dir = results / "runs" / run.run_id
        write_run_file(run, run_dir)
        written.append(write_run(run, run_dir, places, site_of(run.site)))
    if run_id is None:
        written += [write_reference(each, results, name, places) for name, each in references.items()]
    if run_id is None and pack:
        written.append(write_pack(list(runs.values()), results, pack["run_id"], places))
    return written


def chosen_runs(content: dict[str, Any], plan: Path) -> dict[str, Run]:
    """The runs that a plan chose, by id. Raises ConfigError when it holds none."""
    chosen = [each["run"] for each in content.get("candidates", []) if each.get("run")]
    if not chosen:
        raise ConfigError(f"{plan}", "a plan holds the runs that it chose", "make it anew: hpc-accel plan")
    return {each["run_id"]: Run.model_validate(each) for each in chosen}


def write_pack(runs: Sequence[Run], results: Path, name: str, places: Places | None = None) -> Path:
    """The script in which all runs of a study take turns, and its request; the script's path."""
    places, site, results = places or Places(), load_site(runs[0].site), results.resolve()
    paths = {"root": places.root, "environment": places.environment}
    text = script.render_pack(runs, site, name=name, study_dir=results, **paths)
    request = request_file(pack_resources(runs, site), site, frequency_options.common(runs))
    _write_request(results / "packs" / f"{name}.request.json", request, runs[0].site)
    return _write_script(results / "packs" / f"{name}.sbatch", text)


def write_reference(runs: Sequence[Run], results: Path, name: str, places: Places | None = None) -> Path:
    """runs.json, job.sbatch and request.json of the serial run that `runs` are compared with; the script's path."""
    places, site, directory = places or Places(), load_site(runs[0].site), results.resolve() / "references" / name
    paths = {"root": places.root, "environment": places.environment}
    text = script.render_reference(runs, site, name=name, directory=directory, **paths)
    different = [run.model_dump(mode="json") for run in one_of_each(runs)]
    write_atomically(directory / RUNS, json.dumps({"runs": different}, indent=1) + "\n")
    _write_request(directory / "request.json", request_file(reference_resources(runs), site), runs[0].site)
    return _write_script(directory / "job.sbatch", text)


def write_probe(study: Study, study_path: Path, out: Path | None, places: Places | None = None) -> Path:
    """probe.sbatch in the study's results directory, or `out`, and probe.request.json beside it; the script's path."""
    places, site = places or Places(), load_site(study.site)
    path = (out or places.root / "results" / study.name / "probe.sbatch").resolve()
    text = script.render_probe(
        study,
        site,
        root=places.root,
        study_path=study_path.resolve(),
        out_dir=path.parent,
        environment=places.environment,
    )
    _write_request(path.with_suffix(".request.json"), request_file(probe_resources(study), site), study.site)
    return _write_script(path, text)


def _write_request(path: Path, request: dict[str, Any], site_name: str) -> None:
    """With the digest of the site file, so that a script can say that the file was edited since."""
    file = site_file(site_name)
    request = request | {"written_from": {str(file): digest(file)} if file.is_file() else {}}
    write_atomically(path, json.dumps(request, indent=1) + "\n")


def _write_script(path: Path, text: str) -> Path:
    write_atomically(path, text)
    path.chmod(0o755)
    return path
