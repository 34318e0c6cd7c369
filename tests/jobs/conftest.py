"""Runs and sites of which the tests take what they need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpc_accel.jobs.script import render
from hpc_accel.jobs.site import Site
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, NodeKind, Resources, Run, WorkloadSpec

if TYPE_CHECKING:
    from .bench import Bench

ROOT = Path(__file__).parents[2]


def make_run(num_nodes: int = 1, ranks_per_node: int = 2, **resources: Any) -> Run:
    """Data parallelism over all ranks; the rest as small as it can be."""
    ranks = num_nodes * ranks_per_node
    return Run(
        study="study",
        site="here",
        workload=WorkloadSpec(
            name="digits", entry="hpc_accel.workloads.builtin.digits:build", global_batch_size=64 * ranks
        ),
        layout=Layout(dp=ranks, micro_batch_size=64, accumulation_steps=1),
        recipe=Recipe(),
        resources=Resources(num_nodes=num_nodes, ranks_per_node=ranks_per_node, **resources),
        measure=Measure(),
    )


def make_mixed_run(*node_kinds: dict[str, Any], **resources: Any) -> Run:
    """The same on nodes that differ."""
    parts = [NodeKind(number=number, **each) for number, each in enumerate(node_kinds)]
    ranks = sum(part.num_ranks for part in parts)
    alike = make_run(1, ranks)
    whole = Resources(
        num_nodes=sum(part.num_nodes for part in parts),
        ranks_per_node=max(part.ranks_per_node for part in parts),
        gpus_per_node=max(part.gpus_per_node for part in parts),
        node_kinds=tuple(parts),
        **resources,
    )
    return Run.model_validate({**alike.model_dump(exclude={"run_id"}), "resources": whole.model_dump()})


def script(run: Run, run_dir: Path = Path("/data/run"), environment: Path = Path("/opt/env"), **site: Any) -> str:
    """The run's script at a site that differs from the defaults by `site`."""
    return render(run, Site(name="here", **site), root=Path("/data"), run_dir=run_dir, environment=environment)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    from .bench import COMPLETED, Bench

    result = Bench(tmp_path)
    result.hpc_accel()
    result.program("squeue", "exit 1")
    result.program("scontrol", "")
    result.mpirun(COMPLETED)
    return result
