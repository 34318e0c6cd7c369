"""A site file against the Slurm that is here: what does not fit, and a first draft of one from sinfo.

`doctor --site` calls `compare_site`, `init --site` calls `draft_site`. Slurm is asked by its own commands, with a
time limit; nothing is submitted.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hpc_accel.errors import CannotCreateError, ConfigError, UsageError
from hpc_accel.jobs.allocation import minutes
from hpc_accel.jobs.site import SITES_DIR, Partition, Site
from hpc_accel.study.base import NAME

TIMEOUT_S = 20
MOST_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """One thing a site file says that Slurm does not; `fatal` when a job would be refused."""

    value: str
    rule: str
    remedy: str
    fatal: bool


@dataclass(frozen=True, kw_only=True)
class Found:
    """One partition as sinfo shows it."""

    name: str
    default: bool
    num_nodes: int
    cpus_per_node: int
    memory_mb_per_node: int
    gpus_per_node: int
    gpu_type: str | None
    max_time_min: int | None
    features: frozenset[str]


def ask(command: list[str]) -> str:
    """A Slurm command's answer. Raises ConfigError when there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    except FileNotFoundError:
        raise ConfigError(
            f"no {command[0]} here", "a site is compared on a machine of that cluster", "run it on its login node"
        ) from None
    except subprocess.SubprocessError as error:
        detail = (getattr(error, "stderr", "") or str(error)).strip()
        raise ConfigError(
            f"{' '.join(command)}: {detail}", "Slurm's controller must answer", "try again, or ask the site's support"
        ) from None
    return done.stdout


def partitions_here() -> dict[str, Found]:
    """All partitions by name. Of one with several kinds of nodes, the smallest of each size: it fits on all."""
    found: dict[str, Found] = {}
    for line in ask(["sinfo", "--noheader", "--exact", "--format=%P|%D|%c|%m|%G|%l|%f"]).splitlines():
        here = _partition(line)
        found[here.name] = _smaller(found[here.name], here) if here.name in found else here
    return found


def _partition(line: str) -> Found:
    try:
        name, nodes, cpus, memory, gres, limit, features = (part.strip() for part in line.split("|"))
        sizes = [int(text.rstrip("+")) for text in (nodes, cpus, memory)]
    except ValueError:
        raise ConfigError(
            f"sinfo answered {line[:200]!r}",
            "partition|nodes|CPUs|megabytes|GRES|time limit|features were asked for",
            "look at what sinfo is here, or write the site file by hand",
        ) from None
    count, gpu_type = gpus_of(gres)
    return Found(
        name=name.rstrip("*"),
        default=name.endswith("*"),
        num_nodes=sizes[0],
        cpus_per_node=sizes[1],
        memory_mb_per_node=sizes[2],
        gpus_per_node=count,
        gpu_type=gpu_type,
        max_time_min=minutes(limit),
        features=frozenset(features.split(",")) - {"(null)"},
    )


def gpus_of(gres: str) -> tuple[int, str | None]:
    """Number and type of a node's GPUs as sinfo writes them: gpu[:type]:count[(S:sockets)], the first of several.

    A type may begin with a digit, or be nothing but digits (3090): the count is what stands last.
    """
    for item in re.sub(r"\([^)]*\)", "", gres).split(","):
        kind, *named, count = item.strip().split(":") if ":" in item else (item.strip(), "1")
        if kind == "gpu" and count.isdigit():
            return int(count), ":".join(named) or None
    return 0, None


def _smaller(one: Found, other: Found) -> Found:
    return Found(
        name=one.name,
        default=one.default,
        num_nodes=one.num_nodes + other.num_nodes,
        cpus_per_node=min(one.cpus_per_node, other.cpus_per_node),
        memory_mb_per_node=min(one.memory_mb_per_node, other.memory_mb_per_node),
        gpus_per_node=min(one.gpus_per_node, other.gpus_per_node),
        gpu_type=one.gpu_type if one.gpu_type == other.gpu_type else None,
        max_time_min=one.max_time_min,
        features=one.features | other.features,
    )


def compare_site(site: Site) -> list[Misfit]:
    """Everything in `site` that does not fit the Slurm that is here. Raises ConfigError when Slurm does not answer."""
    if site.scheduler == "none":
        return []
    here = partitions_here()
    misfits = []
    if not site.partition and not any(found.default for found in here.values()):
        misfits.append(
            Misfit(
                value="no partition",
                rule="this Slurm has no default partition",
                remedy=f"add `partition:`, one of {', '.join(sorted(here))}",
                fatal=True,
            )
        )
    for name in sorted({site.partition, *site.partitions} - {""}):
        if name not in here:
            rule = f"this Slurm has {', '.join(sorted(here))}"
            misfits.append(Misfit(value=f"partition {name!r}", rule=rule, remedy="correct its name", fatal=True))
        elif name in site.partitions:
            misfits += _sizes(name, site.partitions[name], here[name])
    features = frozenset[str]().union(*(found.features for found in here.values()))
    unknown = set(re.findall(r"[\w.-]+", site.constraint)) - features
    if unknown:
        rule = f"the nodes' features are {', '.join(sorted(features)) or 'none'}"
        misfits.append(Misfit(value=f"constraint {site.constraint!r}", rule=rule, remedy="correct it", fatal=True))
    return [*misfits, *_account(site), *_unusable(site, here)]


def _sizes(name: str, said: Partition, found: Found) -> list[Misfit]:
    misfits = []
    for key in ("num_nodes", "cpus_per_node", "memory_mb_per_node", "gpus_per_node", "max_time_min"):
        claimed, real = getattr(said, key), getattr(found, key)
        if claimed is not None and real is not None and claimed != real:
            misfits.append(
                Misfit(
                    value=f"partitions.{name}.{key} is {claimed}",
                    rule=f"sinfo says {real}",
                    remedy=f"write {key}: {real}",
                    fatal=claimed > real,
                )
            )
    if said.gpu_type and said.gpu_type != found.gpu_type:
        kind = found.gpu_type or "no type"
        remedy = f"write gpu_type: {found.gpu_type}" if found.gpu_type else "delete gpu_type"
        value = f"partitions.{name}.gpu_type is {said.gpu_type}"
        misfits.append(Misfit(value=value, rule=f"sinfo says {kind}", remedy=remedy, fatal=True))
    return misfits


def _unusable(site: Site, here: dict[str, Found]) -> list[Misfit]:
    """Nodes that take no jobs now: a job that needs as many as the partition has would wait for them."""
    wanted = {site.partition, *site.partitions} - {""} or {name for name, found in here.items() if found.default}
    answer = ask(["sinfo", "--noheader", "--Node", "--states=down,drain,fail", "--format=node|%P|%N|%T|%E"])
    found: dict[str, list[str]] = {}
    for line in answer.splitlines():
        mark, name, node, state, why = (part.strip() for part in (line.split("|", 4) + [""] * 4)[:5])
        if mark == "node" and name.rstrip("*") in wanted:
            found.setdefault(name.rstrip("*"), []).append(f"{node} is {state.rstrip('*')} ({why})")
    return [
        Misfit(
            value=f"partition {name}: {', '.join(nodes[:MOST_NAMED])}"
            + (" and more" if len(nodes) > MOST_NAMED else ""),
            rule=f"{len(nodes)} of its {here[name].num_nodes} nodes take no jobs now",
            remedy="use fewer nodes, or ask the site's support when they come back",
            fatal=len(nodes) >= here[name].num_nodes,
        )
        for name, nodes in found.items()
        if name in here
    ]


def _account(site: Site) -> list[Misfit]:
    if not site.account:
        return []
    try:
        answer = ask(["sacctmgr", "--noheader", "--parsable2", "show", "associations", "format=account"])
    except ConfigError:
        return []  # many sites let users not ask
    accounts = set(answer.split())
    if not accounts or site.account in accounts:
        return []
    rule = f"the accounts are {', '.join(sorted(accounts))}"
    return [Misfit(value=f"account {site.account!r}", rule=rule, remedy="choose one of them", fatal=True)]


def draft_site(name: str) -> str:
    """The text of a site file from what sinfo shows; what Slurm does not know stands there as a comment."""
    here = partitions_here()
    default = next((found.name for found in here.values() if found.default), "")
    lines = [
        f"# Site {name}: drafted from sinfo; read it, then check it by `hpc-accel doctor --site {name}`.",
        f"about: {name}",
        "scheduler: slurm",
        f'partition: "{default}"' if default else "# partition:      # there is no default partition: choose one",
        "# account:        # yours: sacctmgr show associations user=$USER format=account",
        "# modules: []     # for example [openmpi/5]; left out, the MPI of the Python environment is used",
        "launcher: mpirun  # or srun --mpi=pmix | srun --mpi=pmi2 | srun --mpi=cray_shasta (see srun --mpi=list)",
        "exclusive: true    # whole nodes: what others do there would be part of the figures",
        "partitions:",
    ]
    for found in here.values():
        lines += [
            f'  "{found.name}":',
            f"    num_nodes: {found.num_nodes}",
            f"    cpus_per_node: {found.cpus_per_node}",
            f"    memory_mb_per_node: {found.memory_mb_per_node}",
            *([f"    gpus_per_node: {found.gpus_per_node}"] if found.gpus_per_node else []),
            *([f'    gpu_type: "{found.gpu_type}"'] if found.gpu_type else []),
            *([f"    max_time_min: {found.max_time_min}"] if found.max_time_min else []),
            "    # price_per_node_hour:   # for comparing costs",
        ]
    return "\n".join(lines) + "\n"


def write_site(directory: Path, name: str) -> Path:
    """slurm/sites/<name>.yaml under `directory`, drafted. Raises UsageError or CannotCreateError."""
    path = directory / SITES_DIR / f"{name}.yaml"
    if not NAME.fullmatch(name):
        raise UsageError(f"site name {name!r}", "letters, digits and _ . + - only", "for example --site mycluster")
    if path.exists():
        raise CannotCreateError(f"{path} exists", "a file of yours is never overwritten", "choose another name")
    text = draft_site(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
