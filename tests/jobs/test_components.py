"""One run on nodes that differ, under real bash: each component's ranks, variables, GPUs, and how daemons start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.jobs import accounting, allocation
from hpc_accel.jobs.launch_line import check_launch
from hpc_accel.jobs.request import check_fits, header, pack_resources, plugin_resources, probe_resources
from hpc_accel.jobs.site import Site, load_site
from hpc_accel.study.study_file import Study

from .bench import COMPLETED, MPICH, Bench
from .conftest import ROOT, make_mixed_run, script

GPU = {"num_nodes": 2, "ranks_per_node": 1, "gpus_per_node": 1, "cpus_per_rank": 4}
CPU = {"ranks_per_node": 2, "partition": "small", "memory_mb": 900}
IN_SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_HET_SIZE": "2",
    **{f"SLURM_JOB_NODELIST_HET_GROUP_{k}": nodes for k, nodes in enumerate(("n[1-2]", "n3"))},
    **{f"SLURM_JOB_NUM_NODES_HET_GROUP_{k}": str(count) for k, count in enumerate((2, 1))},
    **{f"SLURM_NTASKS_HET_GROUP_{k}": "2" for k in range(2)},
    **{f"SLURM_JOB_PARTITION_HET_GROUP_{k}": name for k, name in enumerate(("main", "small"))},
}
HOSTNAMES = 'case "$*" in "show hostnames n[1-2]") printf "n1\\nn2\\n" ;; "show hostnames n3") echo n3 ;; esac'
NO_GPU = ["CUDA_VISIBLE_DEVICES=-1", "HIP_VISIBLE_DEVICES=-1"]


def checkpoint_files(words: list[str]) -> list[list[str]]:
    """mpirun's words, cut at its colons."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == ":":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def test_on_one_machine_components_share_out_its_gpus(bench: Bench):
    run = make_mixed_run({"ranks_per_node": 2, "gpus_per_node": 2}, CPU, {"gpus_per_node": 1, "cpus_per_rank": 3})
    code, output = bench.run(run=run, scheduler="none")
    assert code == 0, output
    program = ["hpc-accel", "train", str(bench.run_dir / "run.json")]
    first, second, third = checkpoint_files(bench.args("mpirun"))
    place = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]
    assert first == [*place, "-n", "2", "env", "OMP_NUM_THREADS=1", "CUDA_VISIBLE_DEVICES=0,1", *program]
    assert second == ["-n", "2", "env", "OMP_NUM_THREADS=1", *NO_GPU, *program]
    assert third == ["-n", "1", "env", "OMP_NUM_THREADS=3", "CUDA_VISIBLE_DEVICES=2", *program]


def test_gpus_that_are_visible_are_those_shared_out(bench: Bench, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    run = make_mixed_run({"gpus_per_node": 1}, {"ranks_per_node": 2, "gpus_per_node": 2})
    assert bench.run(run=run, scheduler="none")[0] == 0
    shown = [word for word in bench.args("mpirun") if word.startswith("CUDA")]
    assert shown == ["CUDA_VISIBLE_DEVICES=5", "CUDA_VISIBLE_DEVICES=6,7"]


@pytest.fixture
def in_slurm(bench: Bench) -> Bench:
    bench.program("scontrol", HOSTNAMES)
    return bench


KEEP = 'for word; do [[ $word == /tmp/hpc_accel-*/hosts ]] && cp -r "${word%/*}" "$0.kept"; done; '


def test_open_mpi_gets_all_nodes_and_a_stand_in_for_ssh(in_slurm: Bench):
    variables = "printenv PRTE_MCA_plm_ssh_agent OMPI_MCA_plm_rsh_agent PRTE_MCA_ras"
    in_slurm.mpirun(f'{KEEP} {variables} > "{in_slurm.directory}/seen"; {COMPLETED}')
    code, output = in_slurm.run(run=make_mixed_run(GPU, CPU), slurm=IN_SLURM)
    assert code == 0, output
    first, second = checkpoint_files(in_slurm.args("mpirun"))
    assert first[0] == "--hostfile" and first[2:6] == ["--map-by", "slot", "--bind-to", "none"]
    assert first[6:10] == ["-n", "2", "env", "OMP_NUM_THREADS=4"]
    assert second[:5] == ["-n", "2", "env", "OMP_NUM_THREADS=1", "CUDA_VISIBLE_DEVICES=-1"]
    agent = first[1].replace("/hosts", "/agent")
    assert (in_slurm.directory / "seen").read_text() == f"{agent}\n{agent}\n^slurm\n"
    kept = in_slurm.directory / "env/bin/mpirun.kept"
    assert (kept / "hosts").read_text() == "n1 slots=1\nn2 slots=1\nn3 slots=2\n"
    assert not Path(agent).exists(), "the script leaves nothing behind"


def test_daemons_start_in_the_component_of_their_node(in_slurm: Bench):
    """Called as mpirun calls ssh. A daemon stays in its step, which would take it along when it ends."""
    in_slurm.program("srun", "")
    in_slurm.mpirun(f"{KEEP} {COMPLETED}")
    assert in_slurm.run(run=make_mixed_run(GPU, CPU), slurm=IN_SLURM)[0] == 0
    agent = in_slurm.directory / "env/bin/mpirun.kept/agent"
    path = {"PATH": f"{in_slurm.directory}/env/bin:{os.environ['PATH']}"}
    for node, options in (
        ("n2", ["--het-group=0", "--cpus-per-task=4", "--gres=gpu:1"]),
        ("n3", ["--het-group=1", "--cpus-per-task=2"]),
    ):
        command = [agent, "-x", node, "A=1;export A;", "prted", "--daemonize", '--prtemca x "1"']
        subprocess.run(command, env=path, check=True, timeout=30)
        words = in_slurm.args("srun")
        assert words[: len(options)] == options and f"--nodelist={node}" in words
        assert words[-3:] == ["bash", "-c", 'A=1;export A; prted --prtemca x "1"']


def test_mpich_gets_them_in_its_own_words(in_slurm: Bench):
    in_slurm.mpirun(f"{KEEP} {COMPLETED}", MPICH)
    run = make_mixed_run({**GPU, "cpus_per_rank": 1}, CPU)
    assert in_slurm.run(run=run, slurm=IN_SLURM, cpu_bind="core")[0] == 0
    first, _ = checkpoint_files(in_slurm.args("mpirun"))
    assert first[:3] == ["-launcher", "ssh", "-launcher-exec"]
    assert first[4] == "-f" and first[6:8] == ["-bind-to", "core:1"]
    assert (in_slurm.directory / "env/bin/mpirun.kept/hosts").read_text() == "n1:1\nn2:1\nn3:2\n"


def test_srun_takes_each_component_with_its_own_options(in_slurm: Bench):
    in_slurm.program("srun", COMPLETED)
    run = make_mixed_run(GPU, CPU)
    assert in_slurm.run(run=run, slurm=IN_SLURM, launcher="srun --mpi=pmix", cpu_bind="core")[0] == 0
    first, second = checkpoint_files(in_slurm.args("srun"))
    assert first[:4] == ["--mpi=pmix", "--het-group=0", "--nodes=2", "--ntasks=2"]
    assert {"--cpus-per-task=4", "--mem=4000", "--gres=gpu:1", "--cpu-bind=cores"} <= set(first)
    assert second[:4] == ["--mpi=pmix", "--het-group=1", "--nodes=1", "--ntasks=2"]
    assert {"--cpus-per-task=1", "--mem=900", "--cpu-bind=cores", "OMP_NUM_THREADS=1"} <= set(second)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"SLURM_HET_SIZE": ""}, "a job of 1 component(s)"),
        ({"SLURM_HET_SIZE": "3"}, "a job of 3 component(s)"),
        ({"SLURM_JOB_NUM_NODES_HET_GROUP_1": "2"}, "component 1 of 2 node(s)"),
        ({"SLURM_NTASKS_HET_GROUP_0": "4"}, "component 0 of 2 node(s), 4 task(s)"),
        ({"SLURM_JOB_NODELIST_HET_GROUP_0": "n3"}, "node n3 in two components"),
    ],
)
def test_wrong_allocation_is_refused(in_slurm: Bench, wrong, words):
    code, output = in_slurm.run(run=make_mixed_run(GPU, CPU), slurm=IN_SLURM | wrong)
    assert code == 64 and words in output and "remedy:" in output
    assert not (in_slurm.directory / "mpirun.args").exists() or in_slurm.args("mpirun") == ["--version"]


def test_mpirun_cannot_bind_ranks_of_different_widths():
    resources = make_mixed_run(GPU, CPU).resources
    with pytest.raises(ConfigError, match="components of 1 and 4 CPUs per rank"):
        check_launch(resources, Site(name="x"), "core")
    check_launch(resources, Site(name="x"), "numa")
    check_launch(resources, Site(name="x", launcher="srun --mpi=pmix"), "core")
    with pytest.raises(ConfigError, match="CPUs per rank"):
        script(make_mixed_run(GPU, CPU), cpu_bind="core")


def test_header_of_each_component():
    site = load_site(ROOT / "slurm/sites/throwaway.yaml")
    run = make_mixed_run(GPU, {**CPU, "constraint": "small", "gpus_per_node": 0})
    first, second = (header(run.resources, site, job_name="x", log=Path("/l"), number=number) for number in range(2))
    assert (first["partition"], first["gres"], first["cpus-per-task"]) == ("main", "gpu:stand_in:1", "4")
    assert (second["partition"], second["constraint"], second["mem"]) == ("small", "small", "900")
    assert "gres" not in second and "output" not in second and "signal" not in second
    with pytest.raises(ConfigError, match="memory_mb: 4000"):
        check_fits(make_mixed_run(GPU, {**CPU, "memory_mb": 4000}).resources, site)


def test_gpu_type_of_a_component_wins_over_its_partitions():
    site = Site(name="x", partitions={"a": {"gpu_type": "a100"}}, partition="a")
    run = make_mixed_run(GPU, {**GPU, "gpu_type": "h100"})
    found = [header(run.resources, site, job_name="x", log=Path("/l"), number=k)["gres"] for k in range(2)]
    assert found == ["gpu:a100:1", "gpu:h100:1"]


def test_one_component_alone_is_an_ordinary_job():
    run = make_mixed_run({**CPU, "constraint": "small"})
    site = load_site(ROOT / "slurm/sites/throwaway.yaml")
    request = plugin_resources(run, site)
    assert (request["slurm_partition"], request["tasks"], request["constraint"]) == ("small", 2, "small")
    assert "hetjob" not in script(run) and 'request {"hetjob' not in script(run)
    assert plugin_resources(make_mixed_run(GPU, CPU), site)["hetjob"] == 2


def test_the_probe_takes_all_components():
    node_kinds = [{"ranks_per_node": 2, "gpus_per_node": 2}, {"num_nodes": 2, "ranks_per_node": 4}]
    study = Study(name="s", workload={"name": "digits"}, resources={"node_kinds": node_kinds})
    asked = probe_resources(study)
    assert [part.num_ranks for part in asked.each_kind] == [2, 8] and asked.gpus_per_node == 2
    assert probe_resources(study.model_copy(update={"device": "cpu"})).gpus_per_node == 0


def test_runs_on_nodes_that_differ_are_not_packed():
    with pytest.raises(ConfigError, match="same_allocation with resources"):
        pack_resources([make_mixed_run(GPU, CPU)], Site(name="x"))


def test_mean_price_of_the_nodes_a_run_takes():
    site = load_site(ROOT / "slurm/sites/throwaway.yaml")
    nodes = make_mixed_run(GPU, CPU).resources.nodes_by_partition
    assert site.mean_per_node("price_per_node_hour", nodes) == (2 * 2.0 + 0.5) / 3
    assert site.mean_per_node("price_per_node_hour", [("", 1), ("unknown", 1)]) is None


HEAD = accounting.FIELDS.replace(",", "|")
TIMES = "2026-01-01T10:00:00|2026-01-01T10:00:30|2026-01-01T10:01:00|30"
BOOKS = f"""{HEAD}
7|PREEMPTED|0:0|{TIMES}|2|n[4-5]|main||7+0
7.batch|CANCELLED|0:15|{TIMES}|1|n4|||7+0.batch
7|COMPLETED|0:0|{TIMES}|2|n[1-2]|main||7+0
7.batch|COMPLETED|0:0|{TIMES}|1|n1||1234|7+0.batch
8|PREEMPTED|0:0|{TIMES}|1|n6|small||7+1
8|COMPLETED|0:0|{TIMES}|1|n3|small||7+1
8.0|COMPLETED|0:0|{TIMES}|1|n3||99|7+1.0
9|COMPLETED|0:0|{TIMES}|1|n3|small||9
"""


def test_books_of_all_components_are_one_jobs():
    jobs = accounting.parse(BOOKS)
    assert set(jobs) == {"7", "9"}
    facts = accounting.facts_of(jobs["7"], "", {"job_id": "7", "exclusive": True})
    assert (facts["state"], facts["num_nodes"], facts["node_list"], facts["partition"]) == (
        "COMPLETED",
        3,
        "n[1-2],n3",
        "main,small",
    )
    assert facts["energy"]["energy_j"] is None and "heterogeneous" in facts["energy"]["reason"]


@pytest.mark.parametrize(("answers", "alone"), [("NO NO", True), ("NO OK", False), ("OK", False), ("", None)])
def test_all_components_must_have_their_nodes_to_themselves(monkeypatch, answers, alone):
    lines = "\n".join(f"JobId=7 OverSubscribe={word} X=1" for word in answers.split())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, lines))
    assert allocation.had_nodes_to_itself("7") is alone


HPC_ACCEL = Path(sys.executable).with_name("hpc-accel")


def submit(bench: Bench, sbatch: str) -> subprocess.Popen:
    bench.program("sbatch", sbatch)
    bench.program("scancel", f'touch "{bench.directory}/cancelled"')
    path = {"PATH": f"{bench.directory}/env/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "1", "SLURM_CONF": "/c"}
    return subprocess.Popen(
        [HPC_ACCEL, "submit", "/some/job.sbatch"],
        env=os.environ | path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_submit_waits_and_has_the_jobs_exit_code(bench: Bench):
    waiting = submit(bench, f'printenv SLURM_JOB_ID SLURM_CONF > "{bench.directory}/seen"; echo "12;cluster"; exit 75')
    output, _ = waiting.communicate(timeout=60)
    assert (waiting.returncode, output) == (75, "job 12\n")
    assert bench.args("sbatch") == ["--parsable", "--wait", "/some/job.sbatch"]
    assert (bench.directory / "seen").read_text() == "/c\n", "nothing of the job one may be in is passed on"


def test_submit_cancels_the_job_when_it_is_stopped(bench: Bench):
    waiting = submit(bench, f'echo 12; until [[ -e "{bench.directory}/cancelled" ]]; do sleep 0.1; done; exit 1')
    assert waiting.stdout is not None and waiting.stdout.readline() == "job 12\n"
    waiting.send_signal(signal.SIGTERM)
    waiting.communicate(timeout=60)
    assert waiting.returncode == 143
    assert bench.args("scancel")[-1] == "12"


def test_submit_says_when_sbatch_refuses(bench: Bench):
    waiting = submit(bench, "echo 'sbatch: error: invalid partition' >&2; exit 1")
    _, errors = waiting.communicate(timeout=60)
    assert waiting.returncode == 78 and "invalid partition" in errors and "remedy:" in errors


def test_record_of_a_job_has_the_nodes_of_all_components(in_slurm: Bench):
    started = time.time()
    assert in_slurm.run(run=make_mixed_run(GPU, CPU), slurm=IN_SLURM)[0] == 0
    job = json.loads((in_slurm.run_dir / "job.json").read_text())
    assert (job["node_list"], job["partition"], job["job_id"]) == ("n[1-2],n3", "main,small", "7")
    assert job["launched_unix_s"] >= started - 1
