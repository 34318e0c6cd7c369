"""How often nodes of a site fail, told to its runs: how often they save follows from it (train/interval.py)."""

from __future__ import annotations

from hpc_accel.jobs.site import Site
from hpc_accel.study.study_file import Study


def with_failure_rate_of(study: Study, site: Site) -> Study:
    """`study` with the site's mean time between failures of a node, unless it says one of its own."""
    if study.checkpoint.node_mtbf_h is not None or site.node_mtbf_h is None:
        return study
    checkpoint = study.checkpoint.model_copy(update={"node_mtbf_h": site.node_mtbf_h})
    return study.model_copy(update={"checkpoint": checkpoint})
