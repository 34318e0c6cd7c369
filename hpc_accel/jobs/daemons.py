"""How mpirun reaches the nodes of a heterogeneous job: a list of all nodes, and a stand-in for ssh.

mpirun in the batch shell sees the first component's nodes only. It gets all of them in a file, and starts its daemons
by a few lines of shell that call `srun --het-group` with what the daemon's node may use.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from hpc_accel.errors import UsageError
from hpc_accel.jobs.allocation import Component
from hpc_accel.jobs.placement import in_hydra_words

AGENT = """\
#!/bin/bash
# agent [-option ...] NODE COMMAND...: a step on that node, in the component that it belongs to.
while [[ $1 == -* ]]; do shift; done
node=$1
shift
read -ra step < <(awk -v node="$node" '$1 == node { $1 = ""; print }' "${0%/*}/nodes")
command=$*
# A daemon that left its step would be killed with it.
exec srun "${step[@]}" --nodes=1 --ntasks=1 --nodelist="$node" --mem=0 --cpu-bind=none --overlap \\
  --kill-on-bad-exit=1 bash -c "${command// --daemonize/}"
"""


def prepare(directory: Path, wanted: Sequence[Component], environ: MutableMapping[str, str]) -> list[tuple[str, int]]:
    """Write the agent and its list of nodes into `directory`, whose path has no spaces: (node, ranks) of every node.

    Raises UsageError when a node is in two components.
    """
    nodes: list[tuple[str, int]] = []
    lines: list[str] = []
    for number, component in enumerate(wanted):
        for node in _host_names(environ.get(f"SLURM_JOB_NODELIST_HET_GROUP_{number}", "")):
            nodes.append((node, component.ranks_per_node))
            lines.append(" ".join([node, f"--het-group={number}", *component.step_options]))
    twice = [node for node, count in Counter(node for node, _ in nodes).items() if count > 1]
    if twice:
        raise UsageError(
            f"node {', '.join(twice)} in two components",
            "mpirun starts one daemon on a node, which belongs to one component",
            "set exclusive: true or different partitions or constraints, or use a srun launcher",
        )
    (directory / "nodes").write_text("\n".join(lines) + "\n")
    (directory / "agent").write_text(AGENT)
    (directory / "agent").chmod(0o755)
    return nodes


def over_all_nodes(
    words: Sequence[str],
    wanted: Sequence[Component],
    directory: Path,
    environ: MutableMapping[str, str],
    *,
    hydra: bool,
) -> list[str]:
    """mpirun's line for a heterogeneous job; sets Open MPI's variables in `environ`."""
    nodes = prepare(directory, wanted, environ)
    hosts, agent = directory / "hosts", directory / "agent"
    if hydra:
        hosts.write_text("".join(f"{node}:{ranks}\n" for node, ranks in nodes))
        place = ["-launcher", "ssh", "-launcher-exec", str(agent), "-f", str(hosts)]
        return [words[0], *place, *in_hydra_words(words[1:])]
    hosts.write_text("".join(f"{node} slots={ranks}\n" for node, ranks in nodes))
    # The same settings for Open MPI 5 (PRTE) and 4. Daemons stay attached, so none may wait for another's start.
    for prefix, plm in (("PRTE_MCA_", "ssh"), ("OMPI_MCA_", "rsh")):
        environ[f"{prefix}ras"] = "^slurm"
        environ[f"{prefix}plm"] = plm
        environ[f"{prefix}plm_{plm}_agent"] = str(agent)
        environ[f"{prefix}plm_{plm}_no_tree_spawn"] = "1"
        environ[f"{prefix}plm_{plm}_num_concurrent"] = str(len(nodes) + 1)
    return [words[0], "--hostfile", str(hosts), *words[1:]]


def _host_names(node_list: str) -> list[str]:
    """n[1-2] as n1, n2, by Slurm's own reading."""
    command = ["scontrol", "show", "hostnames", node_list]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
