"""One run over nodes of two partitions: a heterogeneous job, its ranks in order, each with its component's threads."""

from __future__ import annotations

import pytest

from .conftest import Cluster, make_mixed_run, read

BIG = {"num_nodes": 2, "ranks_per_node": 1, "gpus_per_node": 1, "cpus_per_rank": 2}
SMALL = {"ranks_per_node": 2, "partition": "small", "memory_mb": 900}
# What each rank sees of itself, in the order of ranks.
NOTES_RANKS = """
import json, os, sys
from pathlib import Path
from mpi4py import MPI
comm = MPI.COMM_WORLD
mine = [MPI.Get_processor_name(), os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES")]
ranks = comm.gather(mine)
if ranks:
    Path(sys.argv[2]).with_name("summary.json").write_text(json.dumps({"status": "completed", "ranks": ranks}))
"""
EXPECTED = [["n1", "2", "0"], ["n2", "2", "0"], ["n3", "1", "-1"], ["n3", "1", "-1"]]


@pytest.mark.parametrize("site", [{}, {"launcher": "srun --mpi=pmix"}, {"launcher": "srun --mpi=pmix", "cpu_bind": "core"}])
def test_ranks_of_both_components_in_their_order(cluster: Cluster, site):
    run_dir = cluster.prepare(make_mixed_run(BIG, SMALL), program=NOTES_RANKS, **site)
    job_id = cluster.submit(run_dir / "job.sbatch")
    assert cluster.wait(job_id)["JobState"] == "COMPLETED", (run_dir / "log.txt").read_text()
    assert read(run_dir)["ranks"] == EXPECTED
    job = read(run_dir, "job.json")
    assert (job["job_id"], job["node_list"], job["partition"]) == (job_id, "n[1-2],n3", "main,small")
