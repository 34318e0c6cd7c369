"""Each node is a machine of its own: network, link, memory, mounts. What breaks on one of them is told and survived."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc_accel.study.run import Measure, Run

from .conftest import (
    ROOT,
    Cluster,
    losses,
    make_run,
    make_slow_run,
    read,
)

FACTS = """
hostname
python3 -c 'import socket; print(socket.gethostbyname(socket.gethostname()))'
touch "/tmp/of-$(hostname)" "/dev/shm/of-$(hostname)"
sleep 1
echo /tmp/of-* /dev/shm/of-*
rm "/tmp/of-$(hostname)" "/dev/shm/of-$(hostname)"
"""
SENDS = """
import socket, sys, time
MIB = 1 << 20
if socket.gethostname() == "n1":
    with socket.create_server(("", 5001)) as server:
        connection, _ = server.accept()
        received, began = 0, time.monotonic()
        while piece := connection.recv(MIB):
            received += len(piece)
        print(8e-6 * received / (time.monotonic() - began))
else:
    time.sleep(1)
    with socket.create_connection(("n1", 5001)) as out:
        for _ in range(8):
            out.sendall(bytes(MIB))
"""


def limit(what: str, node: str, *value: str) -> None:
    """`what`, link or cores, of one node."""
    subprocess.run([ROOT / "slurm/cluster" / what, node, *value], check=True, timeout=20)


@pytest.fixture
def mended() -> Iterator[None]:
    """Links are up and unlimited again after the test."""
    yield
    for node in ("n1", "n2"):
        limit("link", node, "up")
        limit("link", node, "none")
        limit("cores", node)


def until_step(run_dir: Path, step: int) -> None:
    """Wait for a checkpoint of `step` or later."""
    for _ in range(240):
        saved = [int(path.name[5:]) for path in run_dir.glob("checkpoints/step-*") if path.name[5:].isdigit()]
        if saved and max(saved) >= step:
            return
        time.sleep(0.5)
    raise AssertionError((run_dir / "log.txt").read_text())


def until_back_in_queue(run_dir: Path) -> None:
    """The attempt ends within its limit, 5 s, and what Slurm takes to end the job."""
    began = time.monotonic()
    while "back into the queue" not in (run_dir / "log.txt").read_text():
        assert time.monotonic() - began < 60, (run_dir / "log.txt").read_text()
        time.sleep(0.5)


def goes_on(cluster: Cluster, run_dir: Path, job_id: str) -> None:
    """The next attempt starts from a checkpoint and completes."""
    cluster.start_now(job_id)
    assert cluster.wait(job_id)["JobState"] == "COMPLETED", (run_dir / "log.txt").read_text()
    assert read(run_dir)["checkpoints"]["resumed_from_step"]["value"] >= 20


def test_each_node_is_a_machine_of_its_own(cluster: Cluster):
    said = cluster.run("srun", "-N2", "-n2", "--label", "bash", "-c", FACTS)
    for task, node in enumerate(("n1", "n2")):
        lines = [line.partition(": ")[2] for line in said.splitlines() if line.startswith(f"{task}: ")]
        assert lines == [node, f"10.213.77.{task + 1}", f"/tmp/of-{node} /dev/shm/of-{node}"], said


def test_a_thin_link(cluster: Cluster, mended: None):
    (cluster.directory / "sends.py").write_text(SENDS)
    limit("link", "n2", "100mbit")
    rate_mbit = float(cluster.run("srun", "-N2", "-n2", "python3", "sends.py"))
    assert rate_mbit < 115, "the bucket lets 2 Mbit of the 67 through at once"


BENCH = """#!/bin/bash
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpirun -x PATH -x PYTHONPATH hpc-accel bench backend --only all_reduce --quick --json figures.json
"""


def test_the_backend_sends_between_nodes_what_it_must(cluster: Cluster, mended: None):
    for node in ("n1", "n2"):
        limit("link", node, "1gbit")
    script = cluster.directory / "bench.sh"
    script.write_text(BENCH)
    job_id = cluster.submit(script, "-N2", "--ntasks-per-node=2", "--mem=4000")
    assert cluster.wait(job_id)["JobState"] == "COMPLETED", (cluster.directory / f"slurm-{job_id}.out").read_text()
    figures = read(cluster.directory, "figures.json")
    assert figures["num_nodes"] == 2 and 500 < figures["link_mbit_per_s"] < 1050
    large = figures["entries"][-1]
    assert large["num_bytes"] == 256 * 1024 and large["ratio_wire"] > 1
    assert 0.95 < large["ratio_bytes"] < 1.1, "one message's worth a node, whatever the ranks on it"


def test_a_node_without_shared_memory_is_named(cluster: Cluster, mended: None):
    """/dev/shm of one node is full when the run starts."""
    run_dir = cluster.prepare(make_run(2, 2))
    fills = "fallocate -l $(df --output=avail -B1 /dev/shm | tail -1) /dev/shm/full; trap 'rm /dev/shm/full' EXIT; "
    holder = cluster.submit_command(fills + "sleep 120", "-w", "n2", "-n1", "--mem=2300")
    cluster.wait(holder, states={"RUNNING"})
    time.sleep(1)
    job_id = cluster.submit(run_dir / "job.sbatch")
    facts = cluster.wait(job_id)
    cluster.run("scancel", holder)
    assert facts["JobState"] == "COMPLETED", (run_dir / "log.txt").read_text()
    told = [each for each in read(run_dir)["warnings"] if each.startswith("shared memory: no /dev/shm on n2 ")]
    assert len(told) == 1, read(run_dir)["warnings"]


def test_a_slow_node_is_found_and_named(cluster: Cluster, mended: None):
    limit("cores", "n2", "0.25")
    run = make_run(2, 1).model_copy(update={"run_id": "", "measure": Measure(warmup_steps=2, steps=30)})
    run_dir = cluster.prepare(Run.model_validate(run.model_dump()))
    assert cluster.wait(cluster.submit(run_dir / "job.sbatch"))["JobState"] == "COMPLETED"
    summary = read(run_dir)
    assert summary["straggler"]["host"] == "n2" and summary["straggler"]["excess"]["value"] > 0.5
    assert [each for each in summary["warnings"] if each.startswith("slow rank: rank 1 on n2 ")], summary["warnings"]


def test_a_cut_link_ends_the_attempt_and_the_next_goes_on(cluster: Cluster, mended: None):
    run = make_slow_run(cluster, 300, {"hang_after_s": 10}, checkpoint={"every_steps": 20})
    run_dir = cluster.prepare(run)
    job_id = cluster.submit(run_dir / "job.sbatch")
    until_step(run_dir, 20)
    limit("link", "n2", "down")
    until_back_in_queue(run_dir)
    error = read(run_dir)["error"]
    assert error["kind"] == "hung" and " on n" in error["message"] and "network" in error["remedy"], error
    limit("link", "n2", "up")
    (cluster.directory / "slow").unlink()
    goes_on(cluster, run_dir, job_id)
    whole = cluster.prepare(run, "whole")
    assert cluster.wait(cluster.submit(whole / "job.sbatch"))["JobState"] == "COMPLETED"
    assert losses(whole) == losses(run_dir)


def test_a_node_that_dies_ends_the_attempt_and_the_next_goes_on(cluster: Cluster):
    run = make_slow_run(cluster, 300, {"hang_after_s": 20}, checkpoint={"every_steps": 20})
    run_dir = cluster.prepare(run)
    job_id = cluster.submit(run_dir / "job.sbatch")
    until_step(run_dir, 20)
    pids = subprocess.run(["ip", "netns", "pids", "hpcbox-n2"], capture_output=True, text=True, check=True).stdout
    subprocess.run(["kill", "-KILL", *pids.split()], check=True)
    until_back_in_queue(run_dir)
    error = read(run_dir)["error"]
    assert error["kind"] == "lost node" and "n2" in error["message"], error
    subprocess.run(["make", "cluster"], cwd=ROOT, check=True, timeout=120)
    (cluster.directory / "slow").unlink()
    goes_on(cluster, run_dir, job_id)
