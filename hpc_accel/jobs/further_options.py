"""Options of sbatch that a site and a study set beside what the tool writes, for a script and for Snakemake's plugin.

study/sbatch_options.py says which there are and how their values look. A study's win over its site's; `false` takes a
site's option without a value back.
"""

from __future__ import annotations

from collections.abc import Mapping

from hpc_accel.jobs.site import Site
from hpc_accel.study.run import NodeKind, Resources
from hpc_accel.study.sbatch_options import OPTIONS

WHOLE_NODE_MEMORY = "--'mem'=0"
"""--mem=0 in `slurm_extra`: the plugin's own `mem_mb` cannot say 0, and it refuses the option as it is written."""


def queue_options(resources: Resources, part: NodeKind, site: Site) -> dict[str, str]:
    """Where a job waits and who pays: what a component, the study and the site say, in this order."""
    asked = resources.sbatch_options
    chosen = {
        "partition": part.partition or site.partition,
        "account": asked.get("account") or site.account,
        "qos": asked.get("qos") or site.qos,
        "constraint": part.constraint or asked.get("constraint") or site.constraint,
    }
    return {name: str(value) for name, value in chosen.items() if value}


def further_options(resources: Resources, site: Site, number: int = 0) -> dict[str, str]:
    """The other options, a flag's value empty; of component `number` of a heterogeneous job, its own alone."""
    asked = site.sbatch_options | resources.sbatch_options
    return {
        name: "" if value is True else str(value)
        for name, value in asked.items()
        if value is not False and not OPTIONS[name].key and not (number and OPTIONS[name].whole_job)
    }


def plugin_words(options: Mapping[str, str]) -> list[str]:
    """Words for the plugin's `slurm_extra`, which a shell reads and the plugin searches for options of its own.

    It takes a -J inside a value, or a value's last letter behind a dash, for one of these: both end at a quote.
    """
    quoted = {name: value.replace("-J", "-''J") for name, value in options.items()}
    return [f"--{name}='{quoted[name]}'" if value else f"--{name}" for name, value in options.items()]
