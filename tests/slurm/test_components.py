"""One run over nodes of two partitions: a heterogeneous job, its ranks in order, each with its component's threads."""

from __future__ import annotations

import subprocess

import pytest

from hpc_accel.study.run import Measure, Run, WorkloadSpec
from hpc_accel.study.stage_partition import automatic_split
from hpc_accel.workloads import entry
from hpc_accel.workloads.count_facts import describe

from .conftest import BIN, ROOT, SLEEPS, SLOW_MODEL, Cluster, accounting_of, make_mixed_run, read, tiny_environment

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
# A job takes whichever node of a partition is free: another may still be leaving it, or run beside it.
PARTITION_OF = {"n1": "main", "n2": "main", "n3": "small"}
EXPECTED = [["n1", "2", "0"], ["n2", "2", "0"], ["n3", "1", "-1"], ["n3", "1", "-1"]]


@pytest.mark.parametrize("site", [{}, {"launcher": "srun --mpi=pmix", "cpu_bind": "core"}], ids=["mpirun", "srun"])
def test_ranks_of_both_components_in_their_order(cluster: Cluster, site):
    run_dir = cluster.prepare(make_mixed_run(BIG, SMALL), program=NOTES_RANKS, **site)
    job_id = cluster.submit(run_dir / "job.sbatch")
    assert cluster.wait(job_id)["JobState"] == "COMPLETED", (run_dir / "log.txt").read_text()
    assert read(run_dir)["ranks"] == EXPECTED
    job = read(run_dir, "job.json")
    assert (job["job_id"], job["node_list"], job["partition"]) == (job_id, "n[1-2],n3", "main,small")
    for _ in range(20):
        books = accounting_of(cluster, run_dir)
        if books["num_nodes"] == 3:
            break
        cluster.run("sleep", "0.5")  # the books get components and steps one after the other
    assert (books["num_nodes"], books["node_list"], books["partition"]) == (3, "n[1-2],n3", "main,small")


def test_an_ordinary_job_is_refused(cluster: Cluster):
    run_dir = cluster.prepare(make_mixed_run(BIG, SMALL), program=NOTES_RANKS)
    text = (run_dir / "job.sbatch").read_text()
    first = text.index("#SBATCH hetjob")
    (run_dir / "job.sbatch").write_text(text[:first] + text[text.index("set -e") :])
    facts = cluster.wait(cluster.submit(run_dir / "job.sbatch"))
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "64:0")
    assert "wants a heterogeneous job of 2" in (run_dir / "log.txt").read_text()


FAILS = """
from mpi4py import MPI
if MPI.COMM_WORLD.rank == 3:
    MPI.COMM_WORLD.Abort(5)
MPI.COMM_WORLD.Barrier()
"""


def test_a_failing_rank_ends_the_job_with_its_code(cluster: Cluster):
    run_dir = cluster.prepare(make_mixed_run(BIG, SMALL), program=FAILS)
    facts = cluster.wait(cluster.submit(run_dir / "job.sbatch"))
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "5:0"), (run_dir / "log.txt").read_text()
    assert read(run_dir)["status"] == "failed" and read(run_dir)["num_nodes"] == 3


def test_environment_is_staged_to_nodes_of_both_components(cluster: Cluster):
    environment, local = tiny_environment(cluster.directory, NOTES_RANKS)
    site = {"stage_environment": True, "node_local_dir": str(local), "environment": str(environment)}
    run_dir = cluster.prepare(make_mixed_run({**BIG, "num_nodes": 1}, {**SMALL, "ranks_per_node": 1}), **site)
    job_id = cluster.submit(run_dir / "job.sbatch")
    assert cluster.wait(job_id)["JobState"] == "COMPLETED", (run_dir / "log.txt").read_text()
    assert [PARTITION_OF[rank[0]] for rank in read(run_dir)["ranks"]] == ["main", "small"]
    assert not list(local.iterdir())


STUDY = """\
site: throwaway
resources:
  time_limit_min: 10
  memory_mb: 1400
  node_kinds:
    - {num_nodes: 1, ranks_per_node: 1, cpus_per_rank: 2}
    - {num_nodes: 1, ranks_per_node: 2, partition: small}
workload: {name: digits}
layouts: [{}, {dp: 2}, {pp: 3}]
measure: {warmup_steps: 1, steps: 2, parity_steps: 2}
device: cpu
"""


@pytest.mark.timeout(600)
def test_study_on_nodes_that_differ(cluster: Cluster):
    """By `snakemake --profile slurm`, whose plugin cannot send such jobs: from the probe to the report."""
    (cluster.directory / "s.yaml").write_text(STUDY)
    snakemake = ["snakemake", "-s", ROOT / "Snakefile", "--profile", "slurm", "--config", "study=s.yaml"]
    output = cluster.run(*snakemake, timeout_s=560)
    results = cluster.directory / "results/s"
    kinds = read(results, "hardware.json")["node_kinds"]
    assert [(PARTITION_OF[kind["name"]], kind["number"]) for kind in kinds] == [("main", 0), ("small", 1)]
    runs = {path.name.rsplit("-", 3)[0]: path for path in (results / "runs").iterdir()}
    summaries = {name: read(path) for name, path in runs.items()}
    found = {
        name: (summary["status"], [PARTITION_OF[host] for host in summary["hosts"]])
        for name, summary in summaries.items()
    }
    assert found == {
        "digits-serial": ("completed", ["main"]),
        "digits-dp2": ("completed", ["small"]),
        "digits-pp3.1f1b": ("completed", ["main", "small"]),
    }, output
    for path in runs.values():
        assert read(path)["parity"]["max_rel_err"] <= 1e-4
    over_both = runs["digits-pp3.1f1b"]
    run = Run.model_validate(read(over_both, "run.json"))
    rates = [kind["levels"][-1]["matmul_flops_per_s"]["fp32"] for kind in kinds]
    facts = describe(entry.build(run.workload, 0))
    assert run.layout.split == automatic_split(facts, 3, [rates[0], rates[1], rates[1]])
    prices = {each["run_id"]: each["price_per_node_hour"] for each in read(results, "plan.json")["candidates"]}
    assert prices[over_both.name] == (2.0 + 0.5) / 2 and prices[runs["digits-dp2"].name] == 0.5
    assert "Nothing to be done" in cluster.run(*snakemake, timeout_s=60)


def test_stopping_who_waits_cancels_the_job(cluster: Cluster):
    run_dir = cluster.prepare(make_mixed_run({**BIG, "num_nodes": 1}, SMALL), program=SLEEPS)
    waiting = subprocess.Popen(
        [BIN / "hpc-accel", "submit", run_dir / "job.sbatch"],
        cwd=cluster.directory,
        env=cluster.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert waiting.stdout is not None
    job_id = waiting.stdout.readline().split()[-1]
    cluster.wait(job_id, states={"RUNNING"})
    waiting.terminate()
    assert waiting.wait(timeout=60) == 143
    assert cluster.wait(job_id)["JobState"] == "CANCELLED"


def test_warning_reaches_both_components_and_the_job_comes_back_whole(cluster: Cluster):
    """All ranks save after the same step; the requeue of the first component is that of all."""
    (cluster.directory / "slow_model.py").write_text(SLOW_MODEL)
    (cluster.directory / "slow").touch()
    run = make_mixed_run({**BIG, "num_nodes": 1}, {**SMALL, "ranks_per_node": 1})
    changes = {
        "workload": WorkloadSpec(name="slow", entry="slow_model:build", global_batch_size=16),
        "layout": run.layout.model_copy(update={"micro_batch_size": 8}),
        "measure": Measure(warmup_steps=1, steps=200, parity_steps=2, parity_tolerance=1e-4),
    }
    run_dir = cluster.prepare(Run.model_validate({**run.model_dump(exclude={"run_id"}), **changes, "device": "cpu"}))
    job_id = cluster.submit(run_dir / "job.sbatch")
    log = run_dir / "log.txt"
    for _ in range(120):
        if log.exists() and "step 1 of" in log.read_text():
            break
        cluster.run("sleep", "0.5")
    cluster.run("scancel", "--batch", "--signal=USR1", job_id)
    for _ in range(120):
        if cluster.show(job_id)["Restarts"] != "0":
            break
        cluster.run("sleep", "0.5")
    assert "asked to stop: saved after step" in log.read_text(), log.read_text()
    (cluster.directory / "slow").unlink()
    cluster.start_now(job_id)
    assert cluster.wait(job_id)["JobState"] == "COMPLETED", log.read_text()
    summary = read(run_dir)
    assert (summary["status"], summary["attempt"]) == ("completed", 2)
    assert [PARTITION_OF[host] for host in summary["hosts"]] == ["main", "small"]
    assert summary["checkpoints"]["resumed_from_step"]["value"] > 0
