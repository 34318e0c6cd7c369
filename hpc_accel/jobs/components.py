"""Launching one run over several components: what each component's ranks get of their own.

A heterogeneous Slurm job is one allocation per component, and a launcher started in the batch shell sees the first
only. So mpirun gets a list of all nodes, and in place of ssh a few lines that start its daemons by
`srun --het-group`; srun as the launcher takes all components by itself. Either way the ranks are one MPI world,
numbered component after component.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.request import gpu_option
from hpc_accel.jobs.site import Site
from hpc_accel.study.run import NodeKind, Resources

NO_GPU = ("CUDA_VISIBLE_DEVICES=-1", "HIP_VISIBLE_DEVICES=-1")
"""For ranks without GPUs: Slurm passes on what the batch shell, on a node of the first component, has."""


@dataclass(frozen=True, kw_only=True)
class ComponentLaunch:
    """One component as the script launches it. Options are shell words that need no quoting or are quoted there."""

    part: NodeKind
    index: int
    """Its place in this job, which is srun's --het-group."""
    variables: tuple[str, ...]
    """Environment of its ranks, KEY=value."""
    gpus: str
    """srun's option for its GPUs, empty without."""
    first_gpu: int
    """On one machine, where components share out the GPUs: the first of its own."""

    @property
    def num_gpus(self) -> int:
        """GPUs of all its nodes."""
        return self.part.num_nodes * self.part.gpus_per_node


def launches(resources: Resources, site: Site, threads: int | None) -> list[ComponentLaunch]:
    """The components of `resources` in their order. `threads` of each rank where a recipe says, else one per CPU."""
    found: list[ComponentLaunch] = []
    for index, part in enumerate(resources.each_kind):
        variables = [f"OMP_NUM_THREADS={threads or part.cpus_per_rank}"]
        if not part.gpus_per_node:
            variables += NO_GPU
        option = "".join(f"--{key}={value}" for key, value in gpu_option(part, site).items())
        first = found[-1].first_gpu + found[-1].num_gpus if found else 0
        found.append(ComponentLaunch(part=part, index=index, variables=tuple(variables), gpus=option, first_gpu=first))
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
