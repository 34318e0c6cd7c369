"""One script on a real cluster: three ways in, refusals, signals, requeue, cancel, packing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc_accel.jobs.compare_site import compare_site, draft_site
from hpc_accel.jobs.script import render_pack
from hpc_accel.jobs.site import load_site
from hpc_accel.study.run import Run

from .conftest import (
    BIN,
    CONF,
    ENDED,
    ROOT,
    SLEEPS,
    Cluster,
    accounting_of,
    cluster_in,
    losses,
    make_run,
    make_slow_run,
    read,
    shared_directory,
    tiny_environment,
    wait_for_restart,
)

SAME_IN_ALL_WAYS = ("run_id", "study", "site", "status", "device", "num_nodes", "num_ranks", "hosts", "steps", "losses")
NOTES_SIZE = """
import json, sys
from pathlib import Path
from mpi4py import MPI
hosts = MPI.COMM_WORLD.gather(MPI.Get_processor_name())
if hosts:
    Path(sys.argv[2]).with_name("summary.json").write_text(json.dumps({"status": "completed", "hosts": hosts}))
"""


@pytest.fixture(scope="module", autouse=True)
def overdue(_cluster_is_up: None) -> tuple[Cluster, str]:
    """A job that ignores its warning; its minute passes while other tests run."""
    cluster = cluster_in(shared_directory())
    program = "import signal\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)\n" + SLEEPS
    run_dir = cluster.prepare(make_run(1, 1, time_limit_min=1, partition="small"), program=program)
    return cluster, cluster.submit(run_dir / "job.sbatch")


def test_by_hand_and_inside_an_allocation_give_the_same_record(cluster: Cluster):
    run_dir = cluster.prepare(make_run(2, 1))
    first = cluster.submit(run_dir / "job.sbatch", cwd=Path("/"))
    assert cluster.wait(first)["JobState"] == "COMPLETED", (run_dir / "log.txt").read_text()
    by_hand = read(run_dir)
    assert by_hand["status"] == "completed" and by_hand["job_id"] == first and len(set(by_hand["hosts"])) == 2
    bare = cluster.submit(run_dir / "job.sbatch", "--export=NONE")
    assert cluster.wait(bare)["JobState"] == "COMPLETED", (run_dir / "log.txt").read_text()
    without_environment = read(run_dir)
    cluster.run(
        "salloc", "-N2", "-n2", "--ntasks-per-node=1", "--mem=2500", "bash", run_dir / "job.sbatch", timeout_s=120
    )
    allocated = read(run_dir)
    for key in SAME_IN_ALL_WAYS:
        assert by_hand[key] == without_environment[key] == allocated[key], key
    facts = accounting_of(cluster, run_dir)
    assert (
        facts["state"] in {"COMPLETED", "RUNNING"}
        and facts["energy"]["energy_j"] is None
        and "shares its nodes" in facts["energy"]["reason"]
    )


@pytest.mark.parametrize("options", [["-N1", "-n2", "--ntasks-per-node=2"], ["-n4", "--ntasks-per-node=2"]])
def test_wrong_allocation_is_refused(cluster: Cluster, options: list[str]):
    run_dir = cluster.prepare(make_run(2, 1), program=NOTES_SIZE)
    facts = cluster.wait(cluster.submit(run_dir / "job.sbatch", *options))
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "64:0")
    assert "this script wants exactly 2" in (run_dir / "log.txt").read_text()
    assert not (run_dir / "summary.json").exists()


# The driver alone is pretended: one GPU, the same for every rank, as when all are bound to the first.
SAME_GPU = """
import sys
from pathlib import Path
from types import SimpleNamespace
import torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.set_device = lambda device: None
torch.cuda.get_device_properties = lambda device: SimpleNamespace(uuid="GPU-0")
from hpc_accel.cli import main
main()
"""


def test_two_ranks_on_one_gpu_are_refused(cluster: Cluster):
    run = make_run(1, 2, gpus_per_node=2).model_copy(update={"run_id": "", "device": "auto"})
    run_dir = cluster.prepare(Run.model_validate(run.model_dump()), program=SAME_GPU)
    facts = cluster.wait(cluster.submit(run_dir / "job.sbatch"))
    log = (run_dir / "log.txt").read_text()
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "78:0"), log
    assert "2 ranks see 1 different GPU(s)" in log
    assert "request GPUs per node" in log
    assert read(run_dir)["status"] == "failed"


def test_singletons_are_refused(cluster: Cluster):
    """srun with a process manager that MPI does not know starts every rank as rank 0 of 1, with exit code 0."""
    run_dir = cluster.prepare(make_run(2, 1), launcher="srun --mpi=pmi2")
    facts = cluster.wait(cluster.submit(run_dir / "job.sbatch"))
    assert facts["JobState"] == "FAILED"
    assert read(run_dir)["status"] == "failed"


@pytest.mark.parametrize(("nodes", "per_node"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_every_geometry_starts_its_ranks_on_its_nodes(cluster: Cluster, nodes: int, per_node: int):
    run_dir = cluster.prepare(make_run(nodes, per_node), program=NOTES_SIZE)
    assert cluster.wait(cluster.submit(run_dir / "job.sbatch"))["JobState"] == "COMPLETED"
    hosts = read(run_dir)["hosts"]
    assert len(hosts) == nodes * per_node and len(set(hosts)) == nodes


def test_names_and_paths_with_spaces_and_quotes(cluster: Cluster):
    prefix = 'it\'s "mine" #1 $(touch canary) %j '
    run_dir = cluster.prepare(make_run(1, 1), name='a b\'s %j "q" #x', program=NOTES_SIZE, job_prefix=prefix)
    job_id = cluster.submit(run_dir / "job.sbatch")
    assert cluster.wait(job_id)["JobState"] == "COMPLETED"
    name = cluster.run("squeue", "-h", "-t", "all", "-j", job_id, "-o", "%j").strip()
    assert name.startswith(prefix)
    assert (run_dir / "log.txt").exists() and read(run_dir)["status"] == "completed"
    assert not list(cluster.directory.rglob("canary"))


def test_warning_checkpoint_requeue_and_exact_resume(cluster: Cluster):
    """Slurm's own warning before the time limit, not one of ours; the run then goes on to the same losses."""
    run = make_slow_run(cluster, time_limit_min=2)
    run_dir = cluster.prepare(run)
    job_id = cluster.submit(run_dir / "job.sbatch")
    wait_for_restart(cluster, job_id)
    (cluster.directory / "slow").unlink()
    cluster.start_now(job_id)
    log = run_dir / "log.txt"
    while (facts := cluster.wait(job_id, states=ENDED | {"PENDING"}))["JobState"] == "PENDING":
        cluster.start_now(job_id)  # Slurm may warn a minute early, which can be during a second attempt too
    assert facts["JobState"] == "COMPLETED", log.read_text()
    summary = read(run_dir)
    assert summary["status"] == "completed"
    assert summary["attempt"] == int(facts["Restarts"]) + 1 >= 2
    assert 0 < summary["checkpoints"]["resumed_from_step"]["value"] < 901
    assert "asked to stop: saved after step" in log.read_text(), "the first attempt's log is kept"
    whole = cluster.prepare(run, "whole")
    facts = cluster.wait(cluster.submit(whole / "job.sbatch"))
    assert facts["JobState"] == "COMPLETED", (whole / "log.txt").read_text()
    assert losses(whole) == losses(run_dir)
    assert read(whole)["checkpoints"]["resumed_from_step"]["value"] is None


ASKED = {
    "per_node": {"MinMemoryNode": "500M"},
    "per_cpu": {"MinMemoryCPU": "250M"},
    "whole_node": {"MinMemoryNode": "0"},
    "none": {"MinMemoryNode": "0"},  # this cluster gives whole nodes to who asks for none
}


def test_memory_and_further_options_are_taken(cluster: Cluster):
    """Jobs that wait for their begin, which Slurm checks as it checks others."""
    options = {"nice": 7, "exclude": "n2", "hint": "nomultithread", "begin": "now+1hour", "mail-type": ["END", "FAIL"]}
    run = make_run(1, 2, memory_mb=500, sbatch_options=options)
    for memory, expected in ASKED.items():
        job_id = cluster.submit(cluster.prepare(run, memory, memory=memory) / "job.sbatch")
        facts = cluster.show(job_id)
        assert {key: facts[key] for key in expected} == expected
        assert (facts["Nice"], facts["ExcNodeList"], facts["MailType"]) == ("7", "n2", "END,FAIL")
        cluster.run("scancel", job_id)


HOGS = "import time\nfrom mpi4py import MPI\nhog = b'a' * 900_000_000\ntime.sleep(60)\n"


def test_job_that_takes_too_much_memory_is_known(cluster: Cluster):
    run_dir = cluster.prepare(make_run(1, 1, memory_mb=300), program=HOGS)
    # With cgroups the kernel ends the rank alone, and its supervisor tells; without, Slurm ends the whole job.
    has_cgroups = "task/cgroup" in cluster.run("scontrol", "show", "config")
    facts = cluster.wait(cluster.submit(run_dir / "job.sbatch"))
    assert facts["JobState"] == ("OUT_OF_MEMORY" if has_cgroups else "FAILED")
    assert (run_dir / "summary.json").exists() == has_cgroups
    if has_cgroups:
        assert "memory" in read(run_dir)["error"]["message"] and "memory_mb" in read(run_dir)["error"]["remedy"]
    books = accounting_of(cluster, run_dir)
    assert books["ended"]["status"] == "failed" and "memory_mb" in books["ended"]["remedy"]


def test_cancelled_job_is_recorded_as_such(cluster: Cluster):
    run_dir = cluster.prepare(make_run(2, 1), program="open(__import__('sys').argv[2] + '.on', 'w')\n" + SLEEPS)
    job_id = cluster.submit(run_dir / "job.sbatch")
    while not (run_dir / "run.json.on").exists():
        cluster.run("sleep", "0.5")
    cluster.run("scancel", job_id)
    cluster.wait(job_id)
    assert read(run_dir)["status"] == "cancelled" and read(run_dir)["error"]["remedy"]
    facts = accounting_of(cluster, run_dir)
    assert facts["state"] == "CANCELLED" and facts["ended"]["status"] == "cancelled"


def test_preempted_job_is_recorded_and_comes_back(cluster: Cluster):
    program = "open(__import__('sys').argv[2] + '.on', 'w')\n" + SLEEPS
    run_dir = cluster.prepare(make_run(2, 1, memory_mb=5000), program=program)
    job_id = cluster.submit(run_dir / "job.sbatch")
    while not (run_dir / "run.json.on").exists():
        cluster.run("sleep", "0.5")
    urgent = cluster.submit(
        cluster.prepare(make_run(2, 1, memory_mb=5000, partition="urgent"), "urgent", NOTES_SIZE) / "job.sbatch"
    )
    assert cluster.wait(urgent)["JobState"] == "COMPLETED"
    facts = cluster.wait(job_id, states={"PENDING"})
    assert facts["Restarts"] == "1"
    cluster.run("scancel", job_id)
    assert read(run_dir)["status"] in {"cancelled", "preempted"}


def test_runs_packed_into_one_allocation(cluster: Cluster):
    runs = [make_run(1, 1), make_run(1, 2), make_run(2, 2)]
    fails = "import sys\nsys.exit(1)\n"
    for run, program in zip(runs, (NOTES_SIZE, fails, NOTES_SIZE), strict=True):
        cluster.prepare(run, f"runs/{run.run_id}", program)
    site = load_site(ROOT / "slurm/sites/throwaway.yaml")
    paths = {"root": cluster.directory, "study_dir": cluster.directory, "environment": BIN.parent}
    packs = cluster.directory / "packs"
    packs.mkdir()
    (packs / "pack.sbatch").write_text(render_pack(runs, site, name="pack", **paths))
    job_id = cluster.submit(packs / "pack.sbatch")
    assert cluster.wait(job_id)["JobState"] == "COMPLETED", (packs / "pack.txt").read_text()
    assert json.loads((packs / "pack.json").read_text())["runs"] == [run.run_id for run in runs]
    directories = [cluster.directory / "runs" / run.run_id for run in runs]
    assert [read(path)["status"] for path in directories] == ["completed", "failed", "completed"]
    assert {read(path, "job.json")["job_id"] for path in directories} == {job_id}
    assert len(set(read(directories[2])["hosts"])) == 2


def test_environment_is_staged_to_the_node_and_removed(cluster: Cluster):
    noted = NOTES_SIZE.replace("hosts}", "hosts, 'program': sys.argv[0]}")
    environment, local = tiny_environment(cluster.directory, noted)
    site = {"stage_environment": True, "node_local_dir": str(local), "environment": str(environment)}
    run_dir = cluster.prepare(make_run(1, 2), **site)
    job_id = cluster.submit(run_dir / "job.sbatch")
    assert cluster.wait(job_id)["JobState"] == "COMPLETED", (run_dir / "log.txt").read_text()
    assert read(run_dir)["program"] == f"{local}/hpc_accel-{job_id}/bin/hpc-accel"
    assert not list(local.iterdir())


def test_site_file_fits_and_a_draft_fits_too(cluster: Cluster, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(CONF))
    assert compare_site(load_site(ROOT / "slurm/sites/throwaway.yaml")) == []
    path = cluster.directory / "mine.yaml"
    path.write_text(draft_site("mine"))
    assert compare_site(load_site(path)) == []
    misfits = compare_site(load_site(ROOT / "slurm/sites/example-nvidia.yaml"))
    assert {"partition 'gpu'", "account 'myproject'"} <= {misfit.value for misfit in misfits}


def test_time_limit_is_recorded_as_such(overdue: tuple[Cluster, str]):
    cluster, job_id = overdue
    cluster.wait(job_id)
    run_dir = cluster.directory / "run"
    assert read(run_dir)["status"] == "timeout" and "time_limit_min" in read(run_dir)["error"]["remedy"]
    facts = accounting_of(cluster, run_dir)
    assert (facts["state"], facts["ended"]["status"]) == ("TIMEOUT", "timeout")


def test_srun_launches_the_ranks_too(cluster: Cluster):
    """A site may prefer Slurm's own launcher: the ranks find each other through PMIx."""
    run_dir = cluster.prepare(make_run(2, 2), launcher="srun --mpi=pmix")
    job_id = cluster.submit(run_dir / "job.sbatch")
    assert cluster.wait(job_id)["JobState"] == "COMPLETED", (run_dir / "log.txt").read_text()
    summary = read(run_dir)
    assert (summary["status"], summary["num_ranks"], len(set(summary["hosts"]))) == ("completed", 4, 2)
