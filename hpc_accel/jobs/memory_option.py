"""How `sbatch` and `srun` are asked for memory: in a site's way, for as much as a run says.

    site's memory    study's memory_mb: 4000         0                 null
    per_node         --mem=4000                      --mem=0           nothing
    per_cpu          --mem-per-cpu=4000 / CPUs       refused           nothing
    whole_node       --mem=0                         --mem=0           --mem=0
    none             nothing                         nothing           nothing

--mem=0 is all memory of the nodes; where nothing is asked, a job gets what the cluster gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.site import Site
from hpc_accel.study.run import NodeKind
from hpc_accel.study.study_file import Study

_GIVEN: Mapping[str, int | None] = {"whole_node": 0, "none": None}
"""`memory_mb` of every run where the site leaves no choice."""


def memory_option(part: NodeKind, site: Site) -> dict[str, str]:
    """The option that asks for a component's memory, without its dashes; none where nothing is asked.

    Raises ConfigError for all memory of the nodes at a site that is asked per CPU.
    """
    asked = _GIVEN.get(site.memory, part.memory_mb)
    if asked is None:
        return {}
    if site.memory != "per_cpu":
        return {"mem": str(asked)}
    if asked == 0:
        raise ConfigError(
            f"memory_mb: 0 at site {site.name}, whose `memory` is per_cpu",
            "0 asks for all memory of the nodes, and --mem-per-cpu has no word for that",
            "give a number of megabytes per node, or null to ask for none",
        )
    return {"mem-per-cpu": str(-(-asked // (part.ranks_per_node * part.cpus_per_rank)))}


def most_memory_mb(asked: Sequence[int | None]) -> int | None:
    """What is enough for each: 0 is all that the nodes have; None, what the cluster gives, where none says more."""
    return 0 if 0 in asked else max(filter(None, asked), default=None)


def with_memory_of(study: Study, site: Site) -> Study:
    """`study` with the memory that its runs get, where the site leaves no choice: the plan counts on that."""
    if site.memory not in _GIVEN:
        return study
    given: dict[str, Any] = {"memory_mb": _GIVEN[site.memory]}
    kinds = study.resources.node_kinds
    if kinds is not None:
        given["node_kinds"] = [kind.model_copy(update=given) for kind in kinds]
    return study.model_copy(update={"resources": study.resources.model_copy(update=given)})
