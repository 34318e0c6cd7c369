"""What a job asks of Slurm, said twice from one source: the script's #SBATCH lines and the executor plugin's resources.

snakemake-executor-plugin-slurm has rules of its own; each entry here that looks odd answers one of them.
A test compares the two forms by the plugin's own code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.clocks import slurm_options
from hpc_accel.jobs.site import Site
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.schema import Resources, Run
from hpc_accel.study.study import Study


def probe_resources(study: Study) -> Resources:
    """All that the study may use: the probe measures between and inside nodes as large runs will see them."""
    limits = study.resources
    return Resources(
        num_nodes=limits.num_nodes,
        ranks_per_node=limits.ranks_per_node,
        gpus_per_node=limits.gpus_per_node if study.device != "cpu" else 0,
        cpus_per_rank=limits.cpus_per_rank,
        memory_mb=limits.memory_mb,
        time_limit_min=limits.time_limit_min,
        partition=limits.partition,
    )


def pack_resources(runs: Sequence[Run], site: Site) -> Resources:
    """One allocation that holds each of `runs` in turn: the largest of each size, the sum of the times.

    Not more time than the partition gives: runs rarely need all they may take, and what a first job leaves undone is
    taken up by the next.
    """
    asked = [run.resources for run in runs]
    partitions = {each.partition for each in asked}
    if len(partitions) != 1:
        raise ConfigError(
            f"runs for partitions {', '.join(sorted(partitions))} in one allocation",
            "one allocation is in one partition",
            "give the study one partition, or leave same_allocation out",
        )
    return Resources(
        num_nodes=max(each.num_nodes for each in asked),
        ranks_per_node=max(each.ranks_per_node for each in asked),
        gpus_per_node=max(each.gpus_per_node for each in asked),
        cpus_per_rank=max(each.cpus_per_rank for each in asked),
        memory_mb=max(each.memory_mb for each in asked),
        time_limit_min=min(
            sum(each.time_limit_min for each in asked),
            site.partition_of(asked[0].partition).max_time_min or sys.maxsize,
        ),
        partition=partitions.pop(),
    )


def check_fits(resources: Resources, site: Site) -> None:
    """Refuse what the partition can never give: Slurm would let the job wait for ever. Raises ConfigError."""
    facts = site.partition_of(resources.partition)
    limits = {
        "num_nodes": (resources.num_nodes, facts.num_nodes),
        "ranks_per_node x cpus_per_rank": (resources.ranks_per_node * resources.cpus_per_rank, facts.cpus_per_node),
        "memory_mb": (resources.memory_mb, facts.memory_mb_per_node),
        "gpus_per_node": (resources.gpus_per_node, facts.gpus_per_node),
        "time_limit_min": (resources.time_limit_min, facts.max_time_min),
    }
    for name, (asked, limit) in limits.items():
        if limit is not None and asked > limit:
            partition = resources.partition or site.partition
            raise ConfigError(
                f"{name}: {asked}",
                f"partition {partition!r} of site {site.name} has {limit}",
                f"ask for at most {limit}, or for another partition (slurm/sites/{site.name}.yaml)",
            )


def header(
    resources: Resources, site: Site, *, job_name: str, log: Path, recipe: Recipe | None = None
) -> dict[str, str]:
    """The #SBATCH options in their order, values not yet quoted; `log` gets every attempt's output appended."""
    check_fits(resources, site)
    options = {
        "job-name": site.job_prefix + job_name,
        "nodes": str(resources.num_nodes),
        "ntasks": str(resources.num_ranks),
        "ntasks-per-node": str(resources.ranks_per_node),
        "cpus-per-task": str(resources.cpus_per_rank),
        "mem": str(resources.memory_mb),
        "time": str(resources.time_limit_min),
        "output": sbatch_path(log),
        "open-mode": "append",
        # B: only the batch shell is told; it passes the signal to mpirun, which knows all ranks.
        "signal": f"B:USR1@{site.warn_before_end_s}",
        "export": "ALL",
    }
    if resources.gpus_per_node:
        count = resources.gpus_per_node
        kind = gpu_type(resources, site)
        if site.gpu_request == "gres":
            options["gres"] = f"gpu:{kind}{count}"
        else:
            options["gpus-per-node"] = f"{kind}{count}"
    chosen = {
        "partition": resources.partition or site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
    }
    options.update({key: value for key, value in chosen.items() if value})
    return options | slurm_options(recipe, site)


def switches(site: Site) -> list[str]:
    """The #SBATCH options without a value."""
    # Slurm would restart a job after a node's failure by itself; only a site that allows restarts wants that.
    return [*(["exclusive"] if site.exclusive else []), "requeue" if site.max_restarts else "no-requeue"]


def plugin_resources(run: Run, site: Site) -> dict[str, Any]:
    """The run's request in the words of Snakemake's Slurm plugin."""
    return plugin_request(run.resources, site, run.recipe)


def plugin_request(resources: Resources, site: Site, recipe: Recipe | None = None) -> dict[str, Any]:
    """A request in the words of Snakemake's Slurm plugin. Keys without a value are left out."""
    check_fits(resources, site)
    if " " in (resources.partition or site.partition):
        value = resources.partition or site.partition
        raise ConfigError(f"partition {value!r}", "Slurm's names have no spaces", "correct the site file")
    request: dict[str, Any] = {
        # The key's presence lets mpirun see the allocation; its truth adds a check that refuses one rank.
        "mpi": "mpirun" if resources.num_ranks > 1 else "",
        "nodes": resources.num_nodes,
        "tasks": resources.num_ranks,
        # Beside GPUs the plugin would add --ntasks-per-gpu=<tasks>.
        "tasks_per_gpu": 0,
        # Per node; the plugin's `gpu` is per job, and mpirun's daemons then cannot be started.
        "gres": f"gpu:{gpu_type(resources, site)}{resources.gpus_per_node}" if resources.gpus_per_node else "",
        # The plugin's `tasks_per_node` excludes `tasks` and refuses one.
        "slurm_extra": " ".join(
            [
                f"--ntasks-per-node={resources.ranks_per_node}",
                *(["--exclusive"] if site.exclusive else []),
                *(f"--{key}={value}" for key, value in slurm_options(recipe, site).items()),
            ]
        ),
        "cpus_per_task": resources.cpus_per_rank,
        "mem_mb": resources.memory_mb,
        "runtime": resources.time_limit_min,
    }
    chosen = {
        "slurm_partition": resources.partition or site.partition,
        "slurm_account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
    }
    request.update({key: value for key, value in chosen.items() if value})
    return request


def gpu_type(resources: Resources, site: Site) -> str:
    """`<type>:` as gres wants it, or nothing when the site names no type."""
    kind = site.partition_of(resources.partition).gpu_type
    return f"{kind}:" if kind else ""


def sbatch_path(path: Path) -> str:
    """A path for --output, where % begins a pattern. Raises ConfigError for a path Slurm cannot be told."""
    text = checked_path(path)
    if "\\" in text:
        raise ConfigError(f"path {text!r}", "a \\ in --output switches Slurm's patterns off", "rename the directory")
    return text.replace("%", "%%")


def checked_path(path: Path) -> str:
    """An absolute path that can stand in a script. Raises ConfigError."""
    text = str(path)
    if not text.isprintable():
        raise ConfigError(f"path {text!r}", "a job script's paths hold no control characters", "rename that directory")
    if not path.is_absolute():
        raise ConfigError(f"path {text!r}", "a job script's paths are absolute", "give it from / on")
    return text
