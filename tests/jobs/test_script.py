"""The script under real bash: ranks and their places, signals, exit codes, requeue, and data that stays data."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.site import Site

from .conftest import make_run, script

OPEN_MPI = 'echo "mpirun (Open MPI) 5.0.11"'
MPICH = 'echo "HYDRA build details:"'
LAST = 'last="${@: -1:1}"; here=$(dirname "$last")'
COMPLETED = f"""{LAST}; echo '{{"status": "completed"}}' > "$here/summary.json" """
CHECKPOINT = f'{LAST}; mkdir -p "$here/checkpoints"; echo "$step" > "$here/checkpoints/latest"'


@dataclass(frozen=True)
class Bench:
    """A directory with stand-ins for mpirun and Slurm's commands that note their arguments."""

    directory: Path

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    def program(self, name: str, body: str) -> None:
        path = self.directory / "env" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        arguments = shlex.quote(f"{self.directory}/{name}.args")
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {arguments}\n{body}\n')
        path.chmod(0o755)

    def mpirun(self, body: str, version: str = OPEN_MPI) -> None:
        self.program("mpirun", f"if [[ $1 == --version ]]; then {version}; exit; fi\n{body}")

    def args(self, name: str) -> list[str]:
        return (self.directory / f"{name}.args").read_text().splitlines()

    def start(self, run=None, text: str | None = None, slurm: dict[str, str] | None = None, **site) -> subprocess.Popen:
        run = run or make_run()
        self.run_dir.mkdir(exist_ok=True)
        (self.run_dir / "run.json").write_text(run.model_dump_json())
        path = self.run_dir / "job.sbatch"
        path.write_text(text or self.text(run, **site))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        return subprocess.Popen(
            ["bash", path],
            env=kept | (slurm or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def text(self, run=None, **site) -> str:
        text = script(run or make_run(), run_dir=self.run_dir, environment=self.directory / "env", **site)
        return text.replace("cd /data", f'cd "{self.directory}"', 1)

    def run(self, **how) -> tuple[int, str]:
        process = self.start(**how)
        try:
            output = process.communicate(timeout=60)[0]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, output

    def summary(self) -> dict:
        return json.loads((self.run_dir / "summary.json").read_text())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    result = Bench(tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/bash\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    result.program("squeue", "exit 1")
    result.program("scontrol", "")
    result.mpirun(COMPLETED)
    return result


IN_SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "2"}


def test_laptop_runs_exactly_the_runs_ranks(bench: Bench):
    code, output = bench.run(run=make_run(2, 3), scheduler="none")
    assert code == 0, output
    tail = ["hpc-accel", "train", str(bench.run_dir / "run.json")]
    assert bench.args("mpirun") == ["-n", "6", "--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", *tail]


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
    assert bench.summary()["step_time_ms"] is None and "no result" in bench.summary()["step_time_ms_reason"]


def signalled(bench: Bench, body: str, *signals: int, slurm=None, **site) -> int:
    """The script's exit code when it gets `signals` 50 ms apart after its ranks have started."""
    bench.mpirun(f'touch "{bench.directory}/ready"; {body}')
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
{LAST}; for _ in $(seq 200); do sleep 0.1; done"""


@pytest.mark.parametrize("signals", [[signal.SIGUSR1], [signal.SIGUSR1, signal.SIGUSR1]])
def test_warning_reaches_the_ranks_before_they_end(bench: Bench, signals):
    started = time.monotonic()
    assert signalled(bench, SAVE_ON_USR1, *signals, scheduler="none") == 75
    assert time.monotonic() - started < 15
    assert bench.summary()["status"] == "preempted"
    assert json.loads((bench.run_dir / "job.json").read_text())["progress"] == "step-5"


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
    text = bench.text(max_restarts=2, **site).replace("set -euo", "export SLURM_TASK_PID=$$\nset -euo", 1)
    return bench.run(text=text, slurm=IN_SLURM | {"SLURM_RESTART_COUNT": str(restarts)})[0]


def test_requeue_once_and_only_for_75(bench: Bench):
    bench.mpirun("exit 75")
    assert batch_shell(bench, 0) == 75
    assert bench.args("scontrol") == ["requeue", "7"]
    (bench.directory / "scontrol.args").unlink()
    bench.mpirun("exit 1")
    assert batch_shell(bench, 0) == 1
    assert not (bench.directory / "scontrol.args").exists()
    bench.mpirun("exit 75")
    assert bench.run(slurm=IN_SLURM, max_restarts=2)[0] == 75, "not the batch shell: whoever started it may retry"
    assert not (bench.directory / "scontrol.args").exists()


def test_requeue_stops_at_the_limit_and_without_progress(bench: Bench):
    bench.mpirun(f"step=$RANDOM; {CHECKPOINT}; exit 75")
    assert [batch_shell(bench, n) for n in (0, 1)] == [75, 75]
    (bench.directory / "scontrol.args").unlink()
    assert batch_shell(bench, 2) == 75
    assert not (bench.directory / "scontrol.args").exists(), "the limit is two"
    (bench.run_dir / "job.json").unlink()
    bench.mpirun("exit 75")
    assert [batch_shell(bench, n) for n in (0, 1)] == [75, 75]
    (bench.directory / "scontrol.args").unlink()
    assert batch_shell(bench, 1) == 70
    assert not (bench.directory / "scontrol.args").exists(), "three times the same checkpoint"


REFUSED = r"refused|at most"
NASTY = [
    "a b",
    "it's",
    '"q"',
    "$(touch canary)",
    "`touch canary`",
    ";touch canary;",
    "%j",
    "#x",
    "a\\b",
    "ü",
    "*",
    "&|<>",
]


@pytest.mark.parametrize("text", NASTY)
def test_values_arrive_as_data(bench: Bench, text: str):
    bench.mpirun(f'printenv NASTY > "{bench.directory}/seen"; printenv LOADED >> "{bench.directory}/seen"; {COMPLETED}')
    site = {"variables": {"NASTY": text}, "modules": (text,), "account": text, "job_prefix": text, "constraint": text}
    run = make_run()
    body = bench.text(run, **site).replace("set -euo", 'module() { export LOADED="$2"; }\nset -euo', 1)
    code, output = bench.run(run=run, text=body, slurm=IN_SLURM)
    assert code == 0, output
    assert (bench.directory / "seen").read_text() == f"{text}\n{text}\n"
    assert not list(bench.directory.rglob("canary"))
    directives = [line for line in body.splitlines() if line.startswith("#SBATCH")]
    assert len(directives) == len(
        [line for line in bench.text(run, account="a", constraint="b").splitlines() if line.startswith("#SBATCH")]
    )


@pytest.mark.parametrize("name", ["with space", "it's", '"q"', "$(touch canary)", "%j", "#x", ";x", "ü", "--x"])
def test_odd_directories_work(tmp_path: Path, name: str):
    directory = tmp_path / name
    directory.mkdir()
    bench = Bench(directory)
    bench.program("python", f'exec "{sys.executable}" "$@"')
    bench.mpirun(COMPLETED)
    text = script(make_run(), run_dir=bench.run_dir, environment=directory / "env", scheduler="none")
    code, output = bench.run(text=text.replace("cd /data", "cd /", 1), scheduler="none")
    assert code == 0, output
    assert bench.args("mpirun")[-1] == str(bench.run_dir / "run.json")
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize(
    "text", ["a\nb", "a\rb", "a\0b", "-x", "--signal=KILL", "a\tb", "\x1b[31m", "x" * 300, "\u2028"]
)
@pytest.mark.parametrize(
    "key", ["account", "partition", "qos", "constraint", "job_prefix", "environment", "node_local_dir"]
)
def test_control_characters_and_options_are_refused(key: str, text: str):
    with pytest.raises(ValueError, match=REFUSED):
        Site(name="x", **{key: text})
    with pytest.raises(ValueError, match=REFUSED):
        Site(name="x", variables={"A": text})
    with pytest.raises(ValueError, match=REFUSED):
        Site(name="x", modules=(text,))


@pytest.mark.parametrize("path", ["/a\nb", "relative", "/a\rb", "/a\\b"])
def test_paths_that_cannot_be_told_are_refused(path: str):
    with pytest.raises(ConfigError):
        script(make_run(), run_dir=Path(path))


def test_colon_in_the_environment_is_refused():
    with pytest.raises(ConfigError, match="colon"):
        script(make_run(), environment=Path("/a:b"))


def test_staging_refuses_paths_that_a_first_line_cannot_hold():
    assert "sbcast" in script(make_run(), stage_environment=True)
    for site in ({"node_local_dir": "/a b"}, {"environment": "/a|b"}):
        with pytest.raises(ConfigError, match="stage_environment"):
            script(make_run(), stage_environment=True, **site)


def test_ten_thousand_scripts_in_20_s():
    run, started = make_run(), time.monotonic()
    for _ in range(1000):
        script(run)
    assert time.monotonic() - started < 2
