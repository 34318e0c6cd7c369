"""A study on two nodes through `snakemake --profile slurm`: real training, and a run that fails beside good ones."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import ROOT, Cluster, read

STUDY = """\
site: throwaway
resources: {num_nodes: 2, ranks_per_node: 1, memory_mb: 2500, time_limit_min: '0:10:00', sbatch_options: {nice: 7}}
workload:
  - name: digits
    layouts: [{}, {dp: 2}]
  - name: broken
    entry: broken_model:build
    global_batch_size: 64
    layouts: [{}]
measure: {warmup_steps: 1, steps: 2, parity_steps: 2}
device: cpu
"""
# Builds where it is planned, fails where it is trained.
BROKEN = """\
import os
import signal
import sys

from hpc_accel.workloads.builtin.digits import build as digits

def build(**args):
    if "SLURM_JOB_ID" in os.environ:
        sys.stderr.write("broken on the node\\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return digits(**args)
"""


def sent(cluster: Cluster, job_id: str) -> str:
    return cluster.run(
        "sacct", "-X", "-n", "-P", "-j", job_id, "-o", "ReqTRES,NNodes,Timelimit,Partition,Account"
    ).strip()


@pytest.mark.timeout(600)
def test_study_on_two_nodes_with_a_failing_run(cluster: Cluster):
    (cluster.directory / "s.yaml").write_text(STUDY)
    (cluster.directory / "broken_model.py").write_text(BROKEN)
    snakemake = ["snakemake", "-s", ROOT / "Snakefile", "--profile", "slurm", "--config", "study=s.yaml"]
    soon = ["--slurm-init-seconds-before-status-checks", "5"]
    output = cluster.run(*snakemake, *soon, timeout_s=560)
    results = cluster.directory / "results/s"
    runs = {path.name.rsplit("-", 3)[0]: path for path in (results / "runs").iterdir()}
    assert {name: read(path)["status"] for name, path in runs.items()} == {
        "digits-serial": "completed",
        "digits-dp2": "completed",
        "broken-serial": "failed",
    }, output
    log = (runs["broken-serial"] / "log.txt").read_text()
    assert log.count("broken on the node") == 2, "both attempts are in the log"
    assert output.count("Trying to restart job") == 3, "the probe, which calibrates, the run and its reference"
    assert len(set(read(runs["digits-dp2"])["hosts"])) == 2
    assert read(runs["digits-dp2"])["parity"]["max_rel_err"] <= 1e-4
    rows = {row["run_id"]: row["status"] for row in csv.DictReader((results / "summary.csv").open())}
    assert sorted(rows.values()) == ["completed", "completed", "failed"]
    assert "Nothing to be done" in cluster.run(*snakemake, *soon, timeout_s=60)
    by_plugin = sent(cluster, read(runs["digits-dp2"])["job_id"])
    by_hand = cluster.submit(runs["digits-dp2"] / "job.sbatch")
    cluster.wait(by_hand)
    assert sent(cluster, by_hand) == by_plugin
    sent_ids = (read(runs["digits-serial"])["job_id"], by_hand)
    assert [cluster.show(job_id)["Nice"] for job_id in sent_ids] == ["7", "7"]
    losses = json.loads(Path(runs["digits-dp2"] / "summary.json").read_text())["losses"]
    assert losses["final"]["value"] > 0


LONG = """\
site: throwaway
resources: {num_nodes: 1, ranks_per_node: 1, memory_mb: 2000, time_limit_min: '0:10:00'}
workload: {name: mlp, layouts: [{}]}
measure: {warmup_steps: 1, steps: 5000000, parity_steps: 0}
device: cpu
"""


@pytest.mark.timeout(400)
def test_a_job_that_a_person_cancels_ends_the_workflow_and_is_no_result(cluster: Cluster):
    """Accounting calls its state `CANCELLED by 0`, which the executor would wait for ever to end."""
    (cluster.directory / "long.yaml").write_text(LONG)
    soon = ["--slurm-init-seconds-before-status-checks", "5", "--retries", "0"]
    command = ["snakemake", "-s", ROOT / "Snakefile", "--profile", "slurm", "--config", "study=long.yaml", *soon]
    with (cluster.directory / "told.txt").open("w") as told:
        workflow = subprocess.Popen(
            [str(word) for word in command], cwd=cluster.directory, env=cluster.environment(), stdout=told, stderr=told
        )
        try:
            runs = cluster.directory / "results/long/runs"
            end = time.monotonic() + 200
            while not (ready := list(runs.glob("*/.ready"))):
                assert workflow.poll() is None and time.monotonic() < end, (cluster.directory / "told.txt").read_text()
                time.sleep(0.5)
            run_dir = ready[0].parent
            cluster.run("scancel", (run_dir / ".attempt").read_text().strip())
            assert workflow.wait(120) != 0
        finally:
            workflow.kill()
    assert not (run_dir / "summary.json").exists(), "the next start measures it"
