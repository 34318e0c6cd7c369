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
from hpc_accel.jobs.frequency_options import slurm_options
from hpc_accel.jobs.further_options import WHOLE_NODE_MEMORY, further_options, plugin_words, queue_options
from hpc_accel.jobs.memory_option import memory_option, most_memory_mb
from hpc_accel.jobs.site import Site
from hpc_accel.study.node_kinds import node_kinds_of, place_on_node_kinds
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import NodeKind, Resources, Run
from hpc_accel.study.study_file import Study


def probe_resources(study: Study) -> Resources:
    """All that the study may use: the probe measures between and inside nodes as large runs will see them."""
    limits = study.resources
    if limits.node_kinds is not None:
        return place_on_node_kinds(sum(each.num_ranks for each in node_kinds_of(limits)), limits, study.device)
    no_gpus = {"gpus_per_node": 0} if study.device == "cpu" else {}
    return Resources(**limits.of_each_run, **limits.shape | no_gpus)


def pack_resources(runs: Sequence[Run], site: Site) -> Resources:
    """One allocation that holds each of `runs` in turn: the largest of each size, the sum of the times.

    Not more time than the partition gives: runs rarely need all they may take, and what a first job leaves undone is
    taken up by the next.
    """
    asked = [run.resources for run in runs]
    if any(each.node_kinds is not None for each in asked):
        raise ConfigError(
            "same_allocation with resources.node_kinds",
            "runs take turns on the nodes of one ordinary job, and a heterogeneous job is several",
            "leave same_allocation out",
        )
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
        memory_mb=most_memory_mb([each.memory_mb for each in asked]),
        time_limit_min=min(
            sum(each.time_limit_min for each in asked),
            site.partition_of(asked[0].partition).max_time_min or sys.maxsize,
        ),
        partition=partitions.pop(),
        sbatch_options=asked[0].sbatch_options,
    )


def reference_resources(runs: Sequence[Run]) -> Resources:
    """One rank on one node for the serial run of `runs`: all CPUs and memory of a node of their rank 0, and one GPU."""
    asked = [run.resources.node_kind_of(0) for run in runs]
    widest = max(asked, key=lambda part: part.ranks_per_node * part.cpus_per_rank)
    alone = {
        "num_nodes": 1,
        "ranks_per_node": 1,
        "gpus_per_node": min(1, widest.gpus_per_node),
        "cpus_per_rank": widest.ranks_per_node * widest.cpus_per_rank,
        "memory_mb": most_memory_mb([part.memory_mb for part in asked]),
    }
    part = widest.model_copy(update=alone)
    time_limit_min = max(run.resources.time_limit_min for run in runs)
    options = runs[0].resources.sbatch_options
    return Resources(time_limit_min=time_limit_min, sbatch_options=options, node_kinds=(part,), **part.shape)


def check_fits(resources: Resources, site: Site) -> None:
    """Refuse what the partition can never give: Slurm would let the job wait for ever. Raises ConfigError."""
    for part in resources.each_kind:
        _check_fits(part, resources.time_limit_min, site)


def _check_fits(part: NodeKind, time_limit_min: int, site: Site) -> None:
    facts = site.partition_of(part.partition)
    limits = {
        "num_nodes": (part.num_nodes, facts.num_nodes),
        "ranks_per_node x cpus_per_rank": (part.ranks_per_node * part.cpus_per_rank, facts.cpus_per_node),
        "memory_mb": (part.memory_mb or 0, facts.memory_mb_per_node),
        "gpus_per_node": (part.gpus_per_node, facts.gpus_per_node),
        "time_limit_min": (time_limit_min, facts.max_time_min),
    }
    for name, (asked, limit) in limits.items():
        if limit is not None and asked > limit:
            partition = part.partition or site.partition
            raise ConfigError(
                f"{name}: {asked}",
                f"partition {partition!r} of site {site.name} has {limit}",
                f"ask for at most {limit}, or for another partition (slurm/sites/{site.name}.yaml)",
            )


def header(
    resources: Resources, site: Site, *, job_name: str, log: Path, recipe: Recipe | None = None, number: int = 0
) -> dict[str, str]:
    """The #SBATCH options in their order, values not yet quoted; `log` gets every attempt's output appended.

    Of a heterogeneous job those of its component `number`, of which only the first has a batch shell and its log.
    """
    check_fits(resources, site)
    part = resources.each_kind[number]
    options = {
        "job-name": site.job_prefix + job_name,
        "nodes": str(part.num_nodes),
        "ntasks": str(part.num_ranks),
        "ntasks-per-node": str(part.ranks_per_node),
        "cpus-per-task": str(part.cpus_per_rank),
        **_checked_memory(part, resources, site),
        "time": str(resources.time_limit_min),
    }
    if number == 0:
        options |= {
            "output": sbatch_path(log),
            "open-mode": "append",
            # B: only the batch shell is told; it passes the signal to mpirun, which knows all ranks.
            "signal": f"B:USR1@{site.warn_before_end_s}",
            "export": "ALL",
        }
    options |= gpu_option(part, site) | queue_options(resources, part, site) | slurm_options(recipe, site)
    return options | {name: value for name, value in further_options(resources, site, number).items() if value}


def _checked_memory(part: NodeKind, resources: Resources, site: Site) -> dict[str, str]:
    option = memory_option(part, site)
    if option and "mem-per-gpu" in further_options(resources, site):
        raise ConfigError(
            f"mem-per-gpu beside {next(iter(option))}",
            "Slurm takes one of --mem, --mem-per-cpu and --mem-per-gpu",
            "set memory: none in the site file, or resources.memory_mb: null in the study",
        )
    return option


def gpu_option(part: NodeKind, site: Site) -> dict[str, str]:
    """The option that asks sbatch or srun for a component's GPUs; none without GPUs."""
    if not part.gpus_per_node:
        return {}
    count = f"{gpu_type(part, site)}{part.gpus_per_node}"
    return {"gres": f"gpu:{count}"} if site.gpu_request == "gres" else {"gpus-per-node": count}


def switches(resources: Resources, site: Site, number: int = 0) -> list[str]:
    """The #SBATCH options without a value, of component `number`."""
    further = [name for name, value in further_options(resources, site, number).items() if not value]
    # Slurm would restart a job after a node's failure by itself; only a site that allows restarts wants that.
    return [*(["exclusive"] if site.exclusive else []), "requeue" if site.max_restarts else "no-requeue", *further]


def request_file(resources: Resources, site: Site, recipe: Recipe | None = None) -> dict[str, Any]:
    """The content of request.json: what a job asks of Slurm, in the words of Snakemake's Slurm plugin.

    `measuring` is 1 where the script runs on the machine of the workflow, which then runs one at a time.
    """
    if site.scheduler == "none":
        request = plugin_request(resources, site, recipe)
        return {key: value for key, value in request.items() if key != "hetjob"} | {"measuring": 1}
    return plugin_request(resources, site, recipe) | {"measuring": 0}


def plugin_resources(run: Run, site: Site) -> dict[str, Any]:
    """The run's request in the words of Snakemake's Slurm plugin."""
    return plugin_request(run.resources, site, run.recipe)


def plugin_request(resources: Resources, site: Site, recipe: Recipe | None = None) -> dict[str, Any]:
    """A request in the words of Snakemake's Slurm plugin. Keys without a value are left out.

    Of a heterogeneous job the number of components, and what Snakemake itself wants of every rule: the plugin cannot
    submit it, `hpc-accel submit` does.
    """
    check_fits(resources, site)
    if len(resources.each_kind) > 1:
        mem_mb = resources.memory_mb or 0
        return {"hetjob": len(resources.each_kind), "mem_mb": mem_mb, "runtime": resources.time_limit_min}
    part = resources.each_kind[0]
    chosen, memory = queue_options(resources, part, site), _checked_memory(part, resources, site)
    if " " in chosen.get("partition", ""):
        value = chosen["partition"]
        raise ConfigError(f"partition {value!r}", "Slurm's names have no spaces", "correct the site file")
    request: dict[str, Any] = {
        # The key's presence lets mpirun see the allocation; its truth adds a check that refuses one rank.
        "mpi": "mpirun" if part.num_ranks > 1 else "",
        "nodes": part.num_nodes,
        "tasks": part.num_ranks,
        # Beside GPUs the plugin would add --ntasks-per-gpu=<tasks>.
        "tasks_per_gpu": 0,
        # Per node; the plugin's `gpu` is per job, and mpirun's daemons then cannot be started.
        "gres": f"gpu:{gpu_type(part, site)}{part.gpus_per_node}" if part.gpus_per_node else "",
        # The plugin's `tasks_per_node` excludes `tasks` and refuses one.
        "slurm_extra": " ".join(
            [
                f"--ntasks-per-node={part.ranks_per_node}",
                *(["--exclusive"] if site.exclusive else []),
                *(f"--{key}={value}" for key, value in slurm_options(recipe, site).items()),
                *([WHOLE_NODE_MEMORY] if memory.get("mem") == "0" else []),
                *plugin_words(further_options(resources, site)),
            ]
        ),
        "cpus_per_task": part.cpus_per_rank,
        # 0 where it asks for none: left out, the profile's default would stand.
        "mem_mb": int(memory.get("mem", 0)),
        "runtime": resources.time_limit_min,
    }
    if "mem-per-cpu" in memory:
        request["mem_mb_per_cpu"] = int(memory["mem-per-cpu"])
    renamed = {"partition": "slurm_partition", "account": "slurm_account"}
    return request | {renamed.get(key, key): value for key, value in chosen.items()}


def gpu_type(part: NodeKind, site: Site) -> str:
    """`<type>:` as gres wants it, or nothing when neither study nor site names a type."""
    kind = part.gpu_type or site.partition_of(part.partition).gpu_type
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
