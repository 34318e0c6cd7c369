"""The job script as a pure function of run and site: data in, text out, every value quoted once.

A script is the #SBATCH header, the site's environment, and one line that becomes `hpc-accel supervise`, in which the
launcher stands in full. One text serves `sbatch`, `bash` and `snakemake`: the supervisor finds out where it is.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from hpc_accel.errors import ConfigError
from hpc_accel.jobs import frequency_options
from hpc_accel.jobs.launch_line import check_launch, launch_line, wanted
from hpc_accel.jobs.request import checked_path, header, pack_resources, probe_resources, reference_resources, switches
from hpc_accel.jobs.site import Site
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.references import RECORD, RUNS
from hpc_accel.study.run import Resources, Run
from hpc_accel.study.study_file import Study

DEFAULT_WARNING_S = 120
"""What `hpc-accel supervise` assumes when the script does not say."""


def render(run: Run, site: Site, *, root: Path, run_dir: Path, environment: Path) -> str:
    """The script of one run.

    `root` is where the study was started (a user's own model is imported from there), `run_dir` holds
    run.json and gets all records, `environment` is the Python environment when the site names none.
    """
    records = checked_path(run_dir)
    return _render(
        site,
        run.resources,
        about=run.run_id,
        job_name=run.run_id,
        root=root,
        records=run_dir,
        log="log.txt",
        environment=environment,
        program=["hpc-accel", "infer" if run.infer else "train", f"{records}/run.json"],
        recipe=run.recipe,
        is_chained=run.production is not None,
    )


def render_probe(study: Study, site: Site, *, study_path: Path, root: Path, out_dir: Path, environment: Path) -> str:
    """The script that measures this site's hardware into `out_dir`/hardware.json."""
    return _render(
        site,
        probe_resources(study),
        about=f"probe of {study.name}",
        job_name=f"probe-{study.name}",
        root=root,
        records=out_dir,
        log="probe.txt",
        environment=environment,
        program=["hpc-accel", "probe", checked_path(study_path), "--out", f"{checked_path(out_dir)}/hardware.json"],
        result=["--result", "hardware.json"],
    )


def render_reference(
    runs: Sequence[Run], site: Site, *, name: str, root: Path, directory: Path, environment: Path
) -> str:
    """The script of the serial run that `runs`, of one model, are compared with; `directory` holds their runs.json.

    Its failure is a result as well, so that its runs go on and say that they were compared with nothing.
    """
    records = checked_path(directory)
    return _render(
        site,
        reference_resources(runs),
        about=f"serial reference {name}",
        job_name=f"reference-{name}",
        root=root,
        records=directory,
        log="log.txt",
        environment=environment,
        program=["hpc-accel", "reference", f"{records}/{RUNS}", "--out", f"{records}/{RECORD}"],
        result=["--result", RECORD, "--record-failure"],
    )


def render_pack(runs: Sequence[Run], site: Site, *, name: str, root: Path, study_dir: Path, environment: Path) -> str:
    """The script of one allocation in which several runs take turns, on the same nodes, back to back.

    The allocation has the largest of each size and the sum of the time limits. Each run is started by its own
    job.sbatch, so it records, fails and is measured as it would alone.
    """
    packed = pack_resources(runs, site)
    options = header(
        packed, site, job_name=name, log=study_dir / "packs" / f"{name}.txt", recipe=frequency_options.common(runs)
    )
    return _text(
        site,
        about=f"{name}: {len(runs)} run(s) in turn in one allocation of {packed.num_nodes} node(s), site {site.name}",
        sbatch=_sbatch(options, switches(packed, site)),
        root=root,
        environment=environment,
        threads=None,
        command=[
            ["hpc-accel", "pack", checked_path(study_dir / "packs" / f"{name}.json")],
            *([checked_path(study_dir / "runs" / run.run_id)] for run in runs),
        ],
    )


def pack_name(runs: Sequence[Run]) -> str:
    """A name that changes with the runs, so that a study which grew is packed anew."""
    return "pack-" + hashlib.sha256("\n".join(run.run_id for run in runs).encode()).hexdigest()[:8]


def _render(
    site: Site,
    resources: Resources,
    *,
    about: str,
    job_name: str,
    root: Path,
    records: Path,
    log: str,
    environment: Path,
    program: list[str],
    recipe: Recipe | None = None,
    result: Sequence[str] = (),
    is_chained: bool = False,
) -> str:
    """`is_chained`: each job of this name waits until those before it have ended."""
    bind = _bind(site, recipe)
    threads = recipe.threads_per_rank if recipe else None
    plain = len(resources.each_kind) == 1
    if not plain:
        check_launch(resources, site, bind)
    directives: list[str] = []
    for number in range(len(resources.each_kind)):
        asked = header(resources, site, job_name=job_name, log=records / log, recipe=recipe, number=number)
        if is_chained and number == 0:
            asked["dependency"] = _chained(asked.get("dependency"))
        # A line "#SBATCH hetjob" ends one component and begins the next.
        directives += [*(["hetjob"] if number else []), *_sbatch(asked, switches(resources, site, number))]
    supervisor = ["hpc-accel", "supervise", checked_path(records)]
    options = _settings(site, resources, environment, result)
    return _text(
        site,
        about=f"{about}: {resources.num_ranks} rank(s) on {resources.num_nodes} node(s), site {site.name}",
        sbatch=directives,
        root=root,
        environment=environment,
        # Ranks of different components have different numbers of threads: theirs stand in the launch line.
        threads=(threads or resources.cpus_per_rank) if plain else None,
        command=[
            *([supervisor, [*options, "--"]] if options else [[*supervisor, "--"]]),
            *launch_line(resources, site, program, bind=bind, threads=threads),
        ],
    )


def _bind(site: Site, recipe: Recipe | None) -> str:
    """What ranks are bound to: as the recipe says, else the site."""
    return recipe.cpu_bind if recipe and recipe.cpu_bind else site.cpu_bind


def _settings(site: Site, resources: Resources, environment: Path, result: Sequence[str]) -> list[str]:
    """Options of `hpc-accel supervise`: what it cannot find out by itself."""
    options = [*result]
    if site.scheduler == "none":
        return options
    for part in wanted(resources, site):
        size = f"{part.num_nodes}x{part.ranks_per_node}"
        options += ["--allocation", " ".join([size, *part.step_options])]
    if site.warn_before_end_s != DEFAULT_WARNING_S:
        options += ["--warn-before-end-s", str(site.warn_before_end_s)]
    if site.max_restarts:
        options += ["--max-restarts", str(site.max_restarts)]
    if site.stage_environment:
        options += ["--stage", ":".join(_staged(site, environment))]
    return options


def _text(
    site: Site,
    *,
    about: str,
    sbatch: list[str],
    root: Path,
    environment: Path,
    threads: int | None,
    command: list[list[str]],
) -> str:
    return (
        _templates()
        .get_template("job.sbatch.j2")
        .render(
            about=about,
            sbatch=sbatch,
            site=site,
            root=checked_path(root),
            threads=threads,
            environment=_search_path(Path(site.environment) if site.environment else environment),
            command=command,
        )
    )


def sbatch_word(value: str) -> str:
    """One value as sbatch reads it in a #SBATCH line: its own quoting, where # would begin a comment."""
    if not value.isprintable():
        raise ConfigError(f"{value!r}", "an #SBATCH line holds no control characters", "correct the study or site")
    if value and all(char.isalnum() or char in "_./:@%,=+-" for char in value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _staged(site: Site, environment: Path) -> tuple[str, str]:
    """The environment and where its copies go.

    Programs name their interpreter in a first line that holds no spaces, and it is rewritten in the copy.
    """
    paths = (site.environment or str(environment), site.node_local_dir)
    for path in paths:
        if not re.fullmatch(r"[A-Za-z0-9_./+-]+", path):
            raise ConfigError(
                f"stage_environment with the directory {path!r}",
                "an environment is copied from and to paths of letters, digits and _ . / + -",
                "move it, or set stage_environment: false",
            )
    return paths


def _search_path(environment: Path) -> str:
    text = checked_path(environment)
    if ":" in text:
        raise ConfigError(f"environment {text!r}", "PATH cannot hold a directory with a colon", "move it")
    return text


def _sbatch(options: dict[str, str], flags: list[str]) -> list[str]:
    return [f"--{key}={sbatch_word(value)}" for key, value in options.items()] + [f"--{key}" for key in flags]


@cache
def _templates() -> jinja2.Environment:
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
    # `=` is quoted by shlex, which in the middle of a word nobody needs.
    text = str(value)
    return (
        text
        if re.fullmatch(r"[A-Za-z0-9_@%+:,./-][A-Za-z0-9_@%+=:,./-]*", text) and text.isascii()
        else shlex.quote(text)
    )


def _chained(dependency: Any) -> str:
    """`singleton` beside what the study or the site asks for. Raises ConfigError where either would do."""
    if dependency and "?" in str(dependency):
        raise ConfigError(
            f"dependency {dependency}",
            "the jobs of a training wait for each other, too, and `?` means that one condition is enough",
            "separate the conditions by commas",
        )
    return f"{dependency},singleton" if dependency else "singleton"
