"""The launch line of a script, in full: the launcher, where it puts the ranks, and the program of every rank.

It is written for Open MPI or srun; `placement` says the same in another MPI's words where a script meets one.

A run over several components is one launch with a part for each, divided by colons: the ranks are one MPI world,
numbered component after component, each with the threads and GPUs of its own component.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.allocation import Component
from hpc_accel.jobs.memory_option import memory_option
from hpc_accel.jobs.placement import NO_GPU, VISIBLE, one_machine
from hpc_accel.jobs.request import gpu_option
from hpc_accel.jobs.site import Site
from hpc_accel.study.run import NodeKind, Resources

SRUN_BIND = {"none": "none", "core": "cores", "socket": "sockets", "numa": "ldoms"}
"""What a rank is bound to, in srun's words."""


def launch_line(
    resources: Resources, site: Site, program: Sequence[str], *, bind: str, threads: int | None
) -> list[list[str]]:
    """The words of the launch, in groups of which each may stand on a line of its own.

    `bind` is none, core, socket or numa. `threads` of each rank where a recipe says, else one per CPU.
    """
    if len(resources.each_kind) > 1:
        return _of_components(resources, site, list(program), bind, threads)
    part = resources.each_kind[0]
    if site.scheduler == "slurm" and site.launcher != "mpirun":
        return [_srun(part, site, bind), list(program)]
    if site.scheduler == "slurm":
        place = ["--map-by", f"ppr:{part.ranks_per_node}:node{_cores(part, bind)}", "--bind-to", bind]
    else:
        place = one_machine(bind)
    return [["mpirun", "-n", str(part.num_ranks), *place], list(program)]


def wanted(resources: Resources, site: Site) -> list[Component]:
    """The allocation that the script asks for, as it checks it."""
    found = []
    for part in resources.each_kind:
        options: list[str] = []
        if len(resources.each_kind) > 1:
            options.append(f"--cpus-per-task={part.ranks_per_node * part.cpus_per_rank}")
            options += [f"--{key}={value}" for key, value in gpu_option(part, site).items()]
        found.append(
            Component(num_nodes=part.num_nodes, ranks_per_node=part.ranks_per_node, step_options=tuple(options))
        )
    return found


def check_launch(resources: Resources, site: Site, bind: str) -> None:
    """Refuse what a launcher cannot do for components that differ. Raises ConfigError."""
    widths = sorted({part.cpus_per_rank for part in resources.each_kind})
    if site.launcher == "mpirun" and bind == "core" and len(widths) > 1:
        raise ConfigError(
            f"cpu_bind core with components of {' and '.join(map(str, widths))} CPUs per rank",
            "mpirun binds every rank of a run to the same number of cores",
            "give all components the same cpus_per_rank, set cpu_bind: none, or use a srun launcher",
        )


def _of_components(
    resources: Resources, site: Site, program: list[str], bind: str, threads: int | None
) -> list[list[str]]:
    by_srun = site.scheduler == "slurm" and site.launcher != "mpirun"
    if by_srun:
        launcher = [site.launcher.split()[0]]
    elif site.scheduler == "slurm":
        launcher = ["mpirun", "--map-by", f"slot{_cores(resources.each_kind[0], bind)}", "--bind-to", bind]
    else:
        launcher = ["mpirun", *one_machine(bind)]
    groups, first_gpu = [launcher], 0
    for number, part in enumerate(resources.each_kind):
        ranks = _srun(part, site, bind, number)[1:] if by_srun else ["-n", str(part.num_ranks)]
        words = [*([":"] if number else []), *ranks, "env", f"OMP_NUM_THREADS={threads or part.cpus_per_rank}"]
        if not part.gpus_per_node:
            words += NO_GPU
        elif site.scheduler == "none":  # one machine: components share out its GPUs, in order
            mine = range(first_gpu, first_gpu + part.num_nodes * part.gpus_per_node)
            words.append(VISIBLE + ",".join(map(str, mine)))
            first_gpu = mine.stop
        groups.append([*words, *program])
    return groups


def _srun(part: NodeKind, site: Site, bind: str, number: int | None = None) -> list[str]:
    """srun with the geometry of a job, or of component `number` of it."""
    words = [*site.launcher.split(), *([] if number is None else [f"--het-group={number}"])]
    words += [f"--nodes={part.num_nodes}", f"--ntasks={part.num_ranks}", f"--ntasks-per-node={part.ranks_per_node}"]
    words.append(f"--cpus-per-task={part.cpus_per_rank}")
    if number is not None:
        asked = memory_option(part, site) | gpu_option(part, site)
        words += [f"--{key}={value}" for key, value in asked.items()]
    return [*words, f"--cpu-bind={SRUN_BIND[bind]}", "--kill-on-bad-exit=1"]


def _cores(part: NodeKind, bind: str) -> str:
    """Open MPI's suffix for the number of cores of each rank; it refuses one beside other bindings."""
    return f":PE={part.cpus_per_rank}" if bind == "core" else ""
