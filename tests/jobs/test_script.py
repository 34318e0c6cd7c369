"""The script under real bash: ranks and their places, refusals, records, signals, requeue."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_accel.study.run import Run

from .bench import CHECKPOINT, COMPLETED, IN_SLURM, LAST, MPICH, Bench
from .conftest import ROOT, make_run

HPC_ACCEL = Path(sys.executable).with_name("hpc-accel")


def test_laptop_runs_exactly_the_runs_ranks(bench: Bench):
    code, output = bench.run(run=make_run(2, 3), scheduler="none")
    assert code == 0, output
    tail = ["hpc-accel", "train", str(bench.run_dir / "run.json")]
    assert bench.args("mpirun") == ["-n", "6", "--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", *tail]


def test_a_run_that_serves_is_started_as_one(bench: Bench):
    run = make_run(1, 2)
    content = {**run.model_dump(exclude={"run_id"}), "infer": {"arrival_rates_per_s": [5.0], "batch_size": 64}}
    code, output = bench.run(run=Run.model_validate(content), scheduler="none")
    assert code == 0, output
    assert bench.args("mpirun")[-3:] == ["hpc-accel", "infer", str(bench.run_dir / "run.json")]


def test_in_slurm_ranks_are_placed_per_node(bench: Bench):
    slurm = IN_SLURM | {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "6"}
    assert bench.run(run=make_run(2, 3), slurm=slurm)[0] == 0
    assert bench.args("mpirun")[:6] == ["-n", "6", "--map-by", "ppr:3:node", "--bind-to", "none"]
    assert bench.run(run=make_run(2, 3, cpus_per_rank=4), slurm=slurm, cpu_bind="core")[0] == 0
    assert bench.args("mpirun")[2:6] == ["--map-by", "ppr:3:node:PE=4", "--bind-to", "core"]


def test_mpich_gets_its_own_words(bench: Bench):
    bench.mpirun(COMPLETED, MPICH)
    assert bench.run(scheduler="none")[0] == 0
    assert bench.args("mpirun")[:3] == ["-n", "2", "hpc-accel"]
    assert bench.run(slurm=IN_SLURM, cpu_bind="core")[0] == 0
    assert bench.args("mpirun")[:6] == ["-n", "2", "-ppn", "2", "-bind-to", "core:1"]


def test_srun_site_names_the_geometry(bench: Bench):
    bench.program("srun", COMPLETED)
    assert bench.run(slurm=IN_SLURM, launcher="srun --mpi=pmi2")[0] == 0
    assert bench.args("srun")[:4] == ["--mpi=pmi2", "--nodes=1", "--ntasks=2", "--ntasks-per-node=2"]


@pytest.mark.parametrize("wrong", [{"SLURM_JOB_NUM_NODES": "2"}, {"SLURM_NTASKS": "4"}, {"SLURM_JOB_NUM_NODES": ""}])
def test_wrong_allocation_is_refused(bench: Bench, wrong):
    code, output = bench.run(slurm=IN_SLURM | wrong)
    assert code == 64 and "rule:" in output and "remedy:" in output
    assert not (bench.directory / "mpirun.args").exists()


def test_slurm_variables_dropped_on_the_way_are_restored(bench: Bench):
    """Snakemake's jobstep keeps SLURM_JOB_ID only; the batch shell above it has them all."""
    bench.mpirun(f'printenv SLURM_JOB_NODELIST SLURM_SECRET > "{bench.directory}/seen"; {COMPLETED}')
    bench.start(slurm=IN_SLURM).communicate(timeout=60)
    stripped = f'env -u SLURM_JOB_NODELIST -u SLURM_JOB_NUM_NODES bash "{bench.run_dir}/job.sbatch"; exit $?'
    environment = os.environ | IN_SLURM | {"SLURM_SECRET": "a=b \n c"}
    done = subprocess.run(["bash", "-c", stripped], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (bench.directory / "seen").read_text() == "n1\na=b \n c\n"


def test_export_none_does_not_reach_the_ranks(bench: Bench):
    bench.mpirun(f'echo "${{SLURM_EXPORT_ENV-unset}}" > "{bench.directory}/seen"; {COMPLETED}')
    assert bench.run(slurm=IN_SLURM | {"SLURM_EXPORT_ENV": "NONE"})[0] == 0
    assert (bench.directory / "seen").read_text() == "unset\n"


def test_rehearsal_outside_slurm_is_kept_apart(bench: Bench):
    code, output = bench.run(scheduler="slurm")
    assert code == 0 and "outside-slurm" in output
    assert not (bench.run_dir / "summary.json").exists()
    assert json.loads((bench.run_dir / "outside-slurm/summary.json").read_text())["status"] == "completed"


def test_exit_code_zero_without_a_record_is_a_failure(bench: Bench):
    bench.run_dir.mkdir()
    (bench.run_dir / "summary.json").write_text('{"status": "completed"}')
    os.utime(bench.run_dir / "summary.json", (1, 1))  # an earlier attempt's
    bench.mpirun("exit 0")
    assert bench.run(scheduler="none")[0] == 70
    assert (bench.summary()["status"], bench.summary()["error"]["kind"]) == ("failed", "no record")


@pytest.mark.parametrize(("body", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("exit 9", 137), ("exit 78", 78)])
def test_failure_is_recorded_with_its_remedy(bench: Bench, body: str, code: int):
    bench.mpirun(body)
    assert bench.run(scheduler="none")[0] == code
    assert bench.summary()["status"] == "failed" and bench.summary()["error"]["remedy"]
    assert bench.summary()["step_time_ms"]["value"] is None and "no result" in bench.summary()["step_time_ms"]["reason"]


def signalled(bench: Bench, body: str, *signals: int, slurm=None, **site) -> int:
    """The script's exit code when it gets `signals` 50 ms apart after its ranks have started."""
    bench.mpirun(f"{body.replace('for _', f'touch {bench.directory}/ready; for _', 1)}")
    process = bench.start(slurm=slurm, **site)
    end = time.monotonic() + 30
    while not (bench.directory / "ready").exists() and time.monotonic() < end:
        time.sleep(0.05)
    for number in signals:
        time.sleep(0.05)
        process.send_signal(number)
    try:
        process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode


SAVE_ON_USR1 = f"""save() {{ step=step-5; {CHECKPOINT}; sleep 0.3; exit 75; }}
trap 'save "$last"' USR1
{LAST}; touch "$here/.ready"; for _ in $(seq 200); do sleep 0.1; done"""


@pytest.mark.parametrize("signals", [[signal.SIGUSR1], [signal.SIGUSR1, signal.SIGUSR1]])
def test_warning_reaches_the_ranks_before_they_end(bench: Bench, signals):
    started = time.monotonic()
    assert signalled(bench, SAVE_ON_USR1, *signals, scheduler="none") == 75
    assert time.monotonic() - started < 15
    assert bench.summary()["status"] == "preempted"
    assert json.loads((bench.run_dir / "job.json").read_text())["progress"] == "step-5"


def test_warning_before_the_ranks_listen_is_kept_for_them(bench: Bench):
    """Without a handler the signal would end them: they find a file instead, as soon as they are ready."""
    body = f"""trap "exit 138" USR1; {LAST}; for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done
touch "$here/.ready"; [[ -e $here/.stop ]] && {{ step=step-0; {CHECKPOINT}; exit 75; }}; exit 1"""
    assert signalled(bench, body, signal.SIGUSR1, scheduler="none") == 75
    assert bench.summary()["status"] == "preempted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_ends_the_ranks(bench: Bench, number):
    body = f'trap "touch {bench.directory}/stopped; exit 143" TERM; for _ in $(seq 200); do sleep 0.1; done'
    assert signalled(bench, body, number, scheduler="none") == 143
    assert (bench.directory / "stopped").exists()
    assert not (bench.run_dir / "summary.json").exists()  # so that the next start measures it again


def test_clock_warns_where_slurm_cannot(bench: Bench):
    """Under Snakemake the script is not the batch shell, which alone gets Slurm's warning."""
    bench.program("squeue", "date -d '+12 seconds' +%Y-%m-%dT%H:%M:%S")
    assert signalled(bench, SAVE_ON_USR1, slurm=IN_SLURM, warn_before_end_s=10) == 75
    assert bench.summary()["status"] == "preempted"


def batch_shell(bench: Bench, restarts: int, **site) -> int:
    """As sbatch starts it: the script is the batch shell itself."""
    text = bench.text(max_restarts=2, **site).replace("set -e", "export SLURM_TASK_PID=$$\nset -e", 1)
    return bench.run(text=text, slurm=IN_SLURM | {"SLURM_RESTART_COUNT": str(restarts)})[0]


def requeued(bench: Bench) -> bool:
    """Whether the last thing asked of scontrol was a requeue; it is asked about the job before."""
    return bench.args("scontrol")[0] == "requeue"


def test_requeue_once_and_only_for_75(bench: Bench):
    bench.mpirun("exit 75")
    assert batch_shell(bench, 0) == 75
    assert bench.args("scontrol") == ["requeue", "7"]
    bench.mpirun("exit 1")
    assert batch_shell(bench, 0) == 1
    assert not requeued(bench)
    bench.mpirun("exit 75")
    assert bench.run(slurm=IN_SLURM, max_restarts=2)[0] == 75, "not the batch shell: whoever started it may retry"
    assert not requeued(bench)


def test_requeue_stops_at_the_limit_and_without_progress(bench: Bench):
    bench.mpirun(f"step=$RANDOM; {CHECKPOINT}; exit 75")
    assert [batch_shell(bench, n) for n in (0, 1)] == [75, 75]
    assert batch_shell(bench, 2) == 75
    assert not requeued(bench), "the limit is two"
    (bench.run_dir / "job.json").unlink()
    bench.mpirun("exit 75")
    assert [batch_shell(bench, n) for n in (0, 1)] == [75, 75]
    assert batch_shell(bench, 1) == 70
    assert not requeued(bench), "three times the same checkpoint"


def test_ten_thousand_scripts_in_20_s(tmp_path, monkeypatch):
    """Through the command, files included: a tenth of them in a tenth of the processor time."""
    runs = tmp_path / "results/s/runs"
    content = make_run().model_dump(mode="json", exclude={"run_id"}) | {"site": "local"}
    for seed in range(1000):
        run = Run.model_validate(content | {"seed": seed})
        (runs / run.run_id).mkdir(parents=True)
        (runs / run.run_id / "run.json").write_text(run.model_dump_json())
    monkeypatch.chdir(ROOT)
    before_s = children_s()
    done = subprocess.run([HPC_ACCEL, "script", runs], capture_output=True, text=True, check=False)
    took_s = children_s() - before_s
    assert done.stdout == f"wrote 1000 scripts below {runs}\n", done.stderr
    assert len(list(runs.glob("*/job.sbatch"))) == 1000
    assert took_s < 2 + 1, "a second more, because Python starts once for all of them"


def children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_directory_without_runs_is_refused(tmp_path):
    done = subprocess.run([HPC_ACCEL, "script", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "no run.json below" in done.stderr
