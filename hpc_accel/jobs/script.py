"""The job script as a pure function of run and site: data in, text out, every value quoted once.

One text serves `sbatch`, `bash` and `snakemake`, because it finds out at run time where it is.
The template beside this file holds all of its shell.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from hpc_accel.errors import ConfigError
from hpc_accel.jobs import frequency_options
from hpc_accel.jobs.components import check_launch, launches
from hpc_accel.jobs.request import checked_path, header, pack_resources, plugin_request, probe_resources, switches
from hpc_accel.jobs.site import Site
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Resources, Run
from hpc_accel.study.study_file import Study

SRUN_BIND = {"none": "none", "core": "cores", "socket": "sockets", "numa": "ldoms"}
"""What a rank is bound to, in srun's words."""


def render(run: Run, site: Site, *, root: Path, run_dir: Path, environment: Path) -> str:
    """The script of one run.

    `root` is where the study was started (a user's own model is imported from there), `run_dir` holds
    run.json and gets all records, `environment` is the Python environment when the site names none.
    """
    return _render(
        site,
        run.resources,
        title=run.run_id,
        job_name=run.run_id,
        kind="run",
        root=root,
        records=run_dir,
        environment=environment,
        study_path=None,
        recipe=run.recipe,
        command="infer" if run.infer else "train",
    )


def render_probe(study: Study, site: Site, *, study_path: Path, root: Path, out_dir: Path, environment: Path) -> str:
    """The script that measures this site's hardware into `out_dir`/hardware.json."""
    return _render(
        site,
        probe_resources(study),
        title=f"probe of {study.name}",
        job_name=f"probe-{study.name}",
        kind="probe",
        root=root,
        records=out_dir,
        environment=environment,
        study_path=study_path,
    )


def render_pack(runs: Sequence[Run], site: Site, *, name: str, root: Path, study_dir: Path, environment: Path) -> str:
    """The script of one allocation in which several runs take turns, on the same nodes, back to back.

    The allocation has the largest of each size and the sum of the time limits. Each run is started by its own
    job.sbatch, so it records, fails and is measured as it would alone.
    """
    packed = pack_resources(runs, site)
    recipe = frequency_options.common(runs)
    options = header(packed, site, job_name=name, log=study_dir / "packs" / f"{name}.txt", recipe=recipe)
    return (
        _environment()
        .get_template("pack.sbatch.j2")
        .render(
            name=name,
            site=site,
            resources=packed,
            request=json.dumps(plugin_request(packed, site, recipe)),
            sbatch=_sbatch(options, site),
            root=checked_path(root),
            run_dirs=[checked_path(study_dir / "runs" / run.run_id) for run in runs],
            done=checked_path(study_dir / "packs" / f"{name}.json"),
        )
    )


def pack_name(runs: Sequence[Run]) -> str:
    """A name that changes with the runs, so that a study which grew is packed anew."""
    return "pack-" + hashlib.sha256("\n".join(run.run_id for run in runs).encode()).hexdigest()[:8]


def _render(
    site: Site,
    resources: Resources,
    *,
    title: str,
    job_name: str,
    kind: str,
    root: Path,
    records: Path,
    environment: Path,
    study_path: Path | None,
    recipe: Recipe | None = None,
    command: str = "probe",
) -> str:
    environment = Path(site.environment) if site.environment else environment
    _check_staging(site, environment)
    log = records / ("log.txt" if kind == "run" else "probe.txt")
    bind = recipe.cpu_bind if recipe and recipe.cpu_bind else site.cpu_bind
    if len(resources.each_kind) > 1:
        check_launch(resources, site, bind)
    threads = recipe.threads_per_rank if recipe else None
    directives: list[str] = []
    for number in range(len(resources.each_kind)):
        options = header(resources, site, job_name=job_name, log=log, recipe=recipe, number=number)
        # A line "#SBATCH hetjob" ends one component and begins the next.
        directives += [*(["hetjob"] if number else []), *_sbatch(options, site)]
    return (
        _environment()
        .get_template("job.sbatch.j2")
        .render(
            title=title,
            kind=kind,
            command=command,
            site=site,
            resources=resources,
            request=json.dumps(plugin_request(resources, site, recipe), ensure_ascii=True),
            sbatch=directives,
            bind=bind,
            # On one machine ranks float, unless somebody says otherwise of this machine or this run.
            bind_here=(recipe.cpu_bind if recipe else None) or (site.cpu_bind if site.scheduler == "none" else "none"),
            srun_bind=SRUN_BIND[bind],
            threads=threads,
            launches=launches(resources, site, threads),
            root=checked_path(root),
            records=checked_path(records),
            environment=_search_path(environment),
            study_path=checked_path(study_path) if study_path else None,
        )
    )


def sbatch_word(value: str) -> str:
    """One value as sbatch reads it in a #SBATCH line: its own quoting, where # would begin a comment."""
    if not value.isprintable():
        raise ConfigError(f"{value!r}", "an #SBATCH line holds no control characters", "correct the study or site")
    if value and all(char.isalnum() or char in "_./:@%,=+-" for char in value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check_staging(site: Site, environment: Path) -> None:
    """Programs name their interpreter in a first line that holds no spaces, and the script rewrites it."""
    for path in (str(environment), site.node_local_dir):
        if site.stage_environment and not re.fullmatch(r"[A-Za-z0-9_./+-]+", path):
            raise ConfigError(
                f"stage_environment with the directory {path!r}",
                "an environment is copied from and to paths of letters, digits and _ . / + -",
                "move it, or set stage_environment: false",
            )


def _search_path(environment: Path) -> str:
    text = checked_path(environment)
    if ":" in text:
        raise ConfigError(f"environment {text!r}", "PATH cannot hold a directory with a colon", "move it")
    return text


def _sbatch(options: dict[str, str], site: Site) -> list[str]:
    return [f"--{key}={sbatch_word(value)}" for key, value in options.items()] + [f"--{key}" for key in switches(site)]


@cache
def _environment() -> jinja2.Environment:
    # A script is shell, not HTML: shell quoting (the filter q) is what protects it.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hpc_accel.jobs", "."),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters["q"] = _quoted
    return environment


def _quoted(value: Any) -> str:
    return shlex.quote(str(value))
