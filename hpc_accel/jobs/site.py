"""A site file: one cluster's facts, written once by a person, so that studies and scripts stay the same everywhere.

Every text in it reaches a job script as data, quoted once: characters that could end a line or begin an
option are refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hpc_accel.errors import ConfigError
from hpc_accel.study.base import Minutes, StrictModel, checked_name
from hpc_accel.study.sbatch_options import SiteOptions
from hpc_accel.study.starter.project import WORKFLOW
from hpc_accel.study.yaml import read_yaml, validated

MAX_TEXT = 256
SITES_DIR = Path("slurm/sites")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Launcher = Literal["mpirun", "srun --mpi=pmix", "srun --mpi=pmi2", "srun --mpi=cray_shasta"]


def checked_text(value: str) -> str:
    """Text that is safe to become one quoted word of a script. Raises ValueError."""
    if len(value) > MAX_TEXT:
        raise ValueError(f"at most {MAX_TEXT} characters, this has {len(value)}")
    if not value.isprintable():
        raise ValueError("control characters (newline, tab, NUL, ...) are refused: they would end the script's line")
    if value.startswith("-"):
        raise ValueError("a leading - is refused: it would be read as an option")
    return value


def checked_variable(value: str) -> str:
    """The name of an environment variable. Raises ValueError."""
    if not VARIABLE.fullmatch(value):
        raise ValueError("a variable's name has letters, digits and _ and begins with no digit")
    return value


Text = Annotated[str, AfterValidator(checked_text)]
Name = Annotated[str, AfterValidator(checked_name)]
Variable = Annotated[str, AfterValidator(checked_variable)]
Count = Annotated[int, Field(gt=0, strict=True)]
CountOrZero = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Partition(StrictModel):
    """One partition (queue) and its kind of node. What is not known is left out, never guessed."""

    num_nodes: Count | None = None
    cpus_per_node: Count | None = None
    memory_mb_per_node: Count | None = None
    gpus_per_node: CountOrZero | None = None
    gpu_type: Name | None = None
    """Slurm's type of the generic resource: gres is then gpu:<type>:<n>."""
    max_time_min: Minutes | None = None
    price_per_node_hour: Positive | None = None
    """In `Site.currency`; a node-hour's billing weight serves as well."""
    power_w_per_node: Positive | None = None
    """Typical power of a node under load, from its data sheet or a meter; not a measurement of a run."""


class Site(StrictModel):
    """One cluster, or this machine."""

    name: Name = Field(exclude=True)
    about: Text = ""
    scheduler: Literal["none", "slurm"] = "slurm"
    partition: Text = ""
    """Where runs go when the study names no partition."""
    partitions: dict[Text, Partition] = {}
    account: Text = ""
    qos: Text = ""
    constraint: Text = ""
    exclusive: bool = False
    """Whole nodes: no other job beside a measurement."""
    memory: Literal["per_node", "per_cpu", "whole_node", "none"] = "per_node"
    """How `sbatch` is asked for memory: --mem, --mem-per-cpu, --mem=0 (all that the nodes have), or not at all."""
    sbatch_options: SiteOptions = {}
    """Further options of sbatch, for every job (study/sbatch_options.py)."""
    job_prefix: Text = ""
    """Put before every job's name, to find one's jobs in a busy queue."""

    modules: tuple[Text, ...] = ()
    environment: Text | None = None
    """Directory of the Python environment on the compute nodes; left out: the one `hpc-accel` runs in."""
    variables: dict[Variable, Text] = {}
    stage_environment: bool = False
    """Copy the environment to `node_local_dir` of every node first, as one archive: kind to a shared file system."""
    node_local_dir: Text = "/tmp"

    launcher: Launcher = "mpirun"
    cpu_bind: Literal["none", "core", "socket"] = "none"
    gpu_request: Literal["gres", "gpus-per-node"] = "gres"
    """How `sbatch` is asked for GPUs; through Snakemake's plugin it is always gres."""

    warn_before_end_s: Annotated[int, Field(ge=10, le=3600, strict=True)] = 120
    """Time to save a checkpoint before the time limit."""
    max_restarts: CountOrZero = 0
    """How often a job that ended with exit code 75 (preempted, hung) may put itself back into the queue."""
    node_mtbf_h: Positive | None = None
    """Hours between failures of one node that end a job, on average; how often runs save follows from it."""
    currency: Name = "EUR"
    carbon_g_per_kwh: Positive | None = None
    """Grams of CO2 equivalent per kWh of the site's electricity, cooling included where that is wanted."""
    electricity_price_per_kwh: Positive | None = None
    """In `currency`."""
    frequencies: tuple[Literal["gpu_freq_mhz", "cpu_freq_khz", "power_limit_w"], ...] = ()
    """What its users may set of frequencies and power limits."""

    def partition_of(self, name: str) -> Partition:
        """The facts of partition `name` (empty: the site's own); empty facts when the site file has none."""
        return self.partitions.get(name or self.partition, Partition())

    def mean_per_node(
        self, key: Literal["price_per_node_hour", "power_w_per_node"], partitions: Iterable[tuple[str, int]]
    ) -> float | None:
        """The mean over (partition, number of nodes), so that it times all nodes is the sum. None if one is unknown."""
        asked = list(partitions)
        values = [getattr(self.partition_of(name), key) for name, _ in asked]
        if None in values:
            return None
        total = sum(value * num_nodes for value, (_, num_nodes) in zip(values, asked, strict=True))
        return float(total / sum(num_nodes for _, num_nodes in asked))


def site_file(name_or_path: str | Path) -> Path:
    """Where a site is written, whether or not it is: slurm/sites/<name>.yaml, or a path ending in .yaml.

    Without such a file here, that of the package.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        return path
    own, packaged = SITES_DIR / f"{name_or_path}.yaml", WORKFLOW / SITES_DIR / f"{name_or_path}.yaml"
    return packaged if packaged.is_file() and not own.is_file() else own


def load_site(name_or_path: str | Path) -> Site:
    """The site `name` from slurm/sites/<name>.yaml, or from a path ending in .yaml. Raises ConfigError."""
    path = site_file(name_or_path)
    if path != Path(name_or_path):
        if not path.is_file() and str(name_or_path) == "local":
            return Site(name="local", scheduler="none")
        if not path.is_file():
            every = (*SITES_DIR.glob("*.yaml"), *(WORKFLOW / SITES_DIR).glob("*.yaml"))
            known = ", ".join(sorted({file.stem for file in every}))
            raise ConfigError(
                f"site {str(name_or_path)!r}: no file {path}",
                f"a site is a file in {SITES_DIR}; there are: {known}",
                "choose one of them, write one with `hpc-accel init --site`, or give a path ending in .yaml",
            )
    data, lines = read_yaml(path)
    if "name" in data:
        raise ConfigError(
            f"{path}:{lines[('name',)]}: unknown key 'name'", "a site is named after its file", "delete the line"
        )
    return validated(Site, {"name": path.stem, **data}, path, lines)
