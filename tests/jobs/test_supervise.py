"""What a script becomes by `exec`, alone: the launch line for what is here, signals, what is left, the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError, UsageError
from hpc_accel.files import read_json, write_json
from hpc_accel.jobs import allocation, attempt, launcher_words, placement
from hpc_accel.jobs.allocation import Component
from hpc_accel.jobs.diagnosis import Failure, diagnose, told_by_ranks
from hpc_accel.jobs.restart import decide_restart
from hpc_accel.jobs.run_script import keep_result

from .bench import HPC_ACCEL

PROGRAM = ["hpc-accel", "train", "/r/run.json"]
SLURM_LINE = ["mpirun", "-n", "8", "--map-by", "ppr:4:node:PE=2", "--bind-to", "core", *PROGRAM]
JOB = {"launched_unix_s": 1.0, "ended_unix_s": 2.0, "attempt": 1, "job_id": None}


def test_supervisor_loads_neither_torch_nor_schemas():
    """It starts before every run."""
    code = (
        "import sys, hpc_accel.cli, hpc_accel.jobs.supervise; print({'torch', 'pydantic', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("text", "num_ranks", "num_gpus"),
    [("4x8", 32, 0), ("2x1 --cpus-per-task=4 --gres=gpu:a100:2", 2, 4), ("3x2 --gpus-per-node=4", 6, 12)],
)
def test_allocation_of_a_script(text: str, num_ranks: int, num_gpus: int):
    component = Component.parse(text)
    assert (component.num_ranks, component.num_gpus) == (num_ranks, num_gpus)


def test_an_allocation_that_cannot_be_read_is_refused():
    with pytest.raises(UsageError, match="nodes"):
        Component.parse("4 nodes")


def test_hydra_gets_its_own_words():
    assert placement.in_hydra_words(SLURM_LINE) == ["mpirun", "-n", "8", "-ppn", "4", "-bind-to", "core:2", *PROGRAM]
    alone = ["mpirun", "-n", "2", *placement.one_machine("none"), *PROGRAM]
    assert placement.in_hydra_words(alone) == ["mpirun", "-n", "2", *PROGRAM]
    edited = ["mpirun", "-n", "2", "--map-by", "node", *PROGRAM]
    assert placement.in_hydra_words(edited) == edited, "a line that a person wrote stays as it is"


def test_a_rehearsal_starts_as_many_ranks_here():
    expected = ["mpirun", "-n", "8", *placement.one_machine("none"), *PROGRAM]
    by_srun = ["srun", "--mpi=pmix", "--nodes=2", "--ntasks=8", "--kill-on-bad-exit=1", *PROGRAM]
    for line in (SLURM_LINE, by_srun):
        assert placement.on_one_machine(line, [Component.parse("2x4")], "none", {}) == expected


def test_a_rehearsal_of_node_kinds_shares_out_the_gpus_here():
    line = ["srun", "--het-group=0", "env", "A=1", *PROGRAM, ":", "--het-group=1", "env", "A=2", *PROGRAM]
    wanted = [Component.parse("1x2 --gres=gpu:2"), Component.parse("1x1 --gres=gpu:h100:1")]
    words = placement.on_one_machine(line, wanted, "none", {"CUDA_VISIBLE_DEVICES": "4,5,6"})
    first, second = placement.split_parts(words)
    assert "CUDA_VISIBLE_DEVICES=4,5" in first and "CUDA_VISIBLE_DEVICES=6" in second
    assert first[-3:] == second[-3:] == PROGRAM and second[:2] == ["-n", "1"]


ABORTED = "printf 'MPI_ABORT was invoked on rank 3 in communicator MPI_COMM_WORLD\\n  Errorcode: 5\\n' >&2; "
LINGERS = "trap '' TERM; " + ABORTED + "for i in $(seq 100); do sleep 0.1; done"
EXITED = "printf 'prterun detected that one or more processes exited\\n   Exit code:    3\\n' >&2"
SPEAKS = "echo 'a worker ended, Exit code: 7' >&2; sleep 2"


@pytest.mark.parametrize(("script", "ended", "code"), [(LINGERS, True, 5), (EXITED, False, 3), (SPEAKS, False, 1)])
def test_a_launcher_that_told_of_a_ranks_end_and_stays_is_ended(script, ended, code, monkeypatch, capfdbinary):
    monkeypatch.setattr(launcher_words, "LINGERS_S", 0.3)
    monkeypatch.setattr(launcher_words, "INSISTS_S", 0.2)
    process = subprocess.Popen(["bash", "-c", script], stderr=subprocess.PIPE)
    words = launcher_words.LauncherWords(process)
    began = time.monotonic()
    process.wait(8)
    assert words.finish() is ended
    assert words.code == code
    assert time.monotonic() - began < 5


LOST = """PRTE has lost communication with a remote daemon.

  HNP daemon   : [prterun-n1-19215@0,0] on node n1
  Remote daemon: [prterun-n1-19215@0,1] on node n2
"""


@pytest.mark.parametrize(
    ("said", "node"), [(LOST, "n2"), ("srun: error: Node failure on n7", "n7"), ("rank 0 is on node n1", "")]
)
def test_a_node_that_the_launcher_lost_is_known(said, node):
    process = subprocess.Popen(["bash", "-c", 'echo "$0" >&2', said], stderr=subprocess.PIPE)
    words = launcher_words.LauncherWords(process)
    process.wait(8)
    words.finish()
    assert words.lost_node == node


def test_start_of_the_script_is_that_of_its_process():
    assert time.time() - attempt.process_started_unix_s() >= 0
    code = "import time\nfrom hpc_accel.jobs.attempt import process_started_unix_s as at\nprint(at())"
    before_s = time.time()
    shell = f"sleep 0.5; exec {sys.executable} -c '{code}'"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=True)
    assert abs(float(done.stdout) - before_s) < 0.4, "the shell's start, not that of Python"


@pytest.mark.parametrize(
    ("text", "minutes"), [("30:00", 30), ("2:00:00", 120), ("1-00:00:00", 1440), ("UNLIMITED", None), ("", None)]
)
def test_limits_in_minutes(text: str, minutes: int | None):
    assert allocation.minutes(text) == minutes


def test_a_summary_of_an_earlier_attempt_is_no_success(tmp_path: Path):
    write_json(tmp_path / "summary.json", {"status": "completed"})
    os.utime(tmp_path / "summary.json", (1, 1))
    attempt.begin(tmp_path, "7")
    with pytest.raises(ConfigError, match=r"run\.json"):  # the record of the failure is that of a run
        attempt.complete_record(tmp_path, None, JOB)
    write_json(tmp_path / "summary.json", {"status": "completed"})
    assert attempt.complete_record(tmp_path, None, JOB) == 0
    write_json(tmp_path / "summary.json", {"status": "failed"})
    assert attempt.complete_record(tmp_path, None, JOB) == 70, "the ranks say so, whatever the launcher ended with"
    killed = Failure(status="failed", kind="killed", message="", remedy="", exit_code=137)
    assert attempt.complete_record(tmp_path, killed, JOB) == 137


def test_a_job_gives_up_without_progress():
    how = {"max_restarts": 9, "own_batch_shell": True, "progress": "step-5"}
    first = decide_restart(75, restarts=0, earlier={}, **how)
    second = decide_restart(75, restarts=1, earlier={"progress": "step-5", "num_without_progress": 1}, **how)
    third = decide_restart(75, restarts=2, earlier={"progress": "step-5", "num_without_progress": 2}, **how)
    assert [each.requeue for each in (first, second, third)] == [True, True, False] and third.exit_code == 70


ORPHANS = "import os, time\nif os.fork() == 0:\n os.setsid()\n time.sleep(60)\nos._exit(3)\n"


def supervised(directory: Path, code: str) -> subprocess.Popen[str]:
    (directory / "run.json").write_text("{}")
    command = [HPC_ACCEL, "supervise", directory, "--result", "out", "--", sys.executable, "-c", code]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    return subprocess.Popen(command, env=kept, stderr=subprocess.PIPE, text=True)


def test_what_a_launcher_leaves_behind_is_ended(tmp_path: Path):
    """A launcher that was killed leaves its ranks, in sessions of their own."""
    process = supervised(
        tmp_path, f"import os\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n{ORPHANS}"
    )
    process.communicate(timeout=30)
    assert process.returncode == 3
    own = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, timeout=30, check=True).stdout
    assert str(tmp_path / "pid") not in own, "no process of that command line is left"


def test_a_second_signal_while_the_first_is_passed_on(tmp_path: Path):
    handler = "import signal, time\nsignal.signal(15, lambda *_: (time.sleep(0.5), exit(9)))\n"
    code = handler + "open('READY', 'w')\ntime.sleep(60)"
    process = supervised(tmp_path, code.replace("READY", str(tmp_path / "ready")))
    end = time.monotonic() + 30
    while not (tmp_path / "ready").exists() and time.monotonic() < end:
        time.sleep(0.05)
    for number in (signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        time.sleep(0.1)
    process.communicate(timeout=30)
    assert process.returncode == 9


SAVES = """
import os, signal, sys
from hpc_accel.jobs.child import Child
inner = (
    "import os, signal, time\\n"
    "signal.signal(signal.SIGUSR1, lambda *_: open('saved', 'w').close())\\n"
    "os.kill(os.getppid(), signal.SIGTERM)\\n"
    "time.sleep(30); time.sleep(30)"
)
child = Child(lambda: sys.argv[1] == "listens", saves_within_s=0.5)
code = child.run([sys.executable, "-c", inner], os.environ)
print(child.asked_to_stop, code)
"""


@pytest.mark.parametrize("ranks", ["listens", "starts"])
def test_a_training_that_is_stopped_saves_first_and_ends_all_the_same(tmp_path: Path, ranks: str):
    command = [sys.executable, "-c", SAVES, ranks]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "TERM 143\n", done.stderr
    assert (tmp_path / "saved").exists() == (ranks == "listens")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("exit(9)", "failed: a rank was killed (SIGKILL)"),
        ("open('out', 'w').write('{\"problem\": \"own\"}')\nexit(1)", "own"),
    ],
)
def test_a_reference_that_fails_says_why_in_its_record(tmp_path: Path, code, told):
    command = [
        HPC_ACCEL,
        "supervise",
        tmp_path,
        "--result",
        "out",
        "--record-failure",
        "--",
        sys.executable,
        "-c",
        code,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode in {1, 9}
    assert read_json(tmp_path / "out")["problem"].startswith(told)


def test_a_launcher_that_is_not_there_is_named(tmp_path: Path):
    process = subprocess.Popen(
        [HPC_ACCEL, "supervise", tmp_path, "--result", "out", "--", "no-such-launcher"],
        stderr=subprocess.PIPE,
        text=True,
    )
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 78 and "no-such-launcher" in errors and "remedy:" in errors


@pytest.mark.parametrize(
    ("status", "exit_code", "attempt_number", "kept", "ends_with"),
    [
        ("completed", 0, 1, True, 0),
        ("failed", 1, 1, False, 1),
        ("failed", 1, 2, True, 0),
        ("failed", 78, 1, True, 0),
        ("cancelled", 143, 2, False, 143),
        ("preempted", 75, 2, False, 75),
        ("timeout", 137, 2, True, 0),
    ],
)
def test_which_ends_are_results_of_the_workflow(tmp_path, status, exit_code, attempt_number, kept, ends_with):
    result = tmp_path / "summary.json"
    write_json(result, {"status": status})
    assert keep_result(result, exit_code, attempt_number) == ends_with
    assert read_json(result) == ({"status": status} if kept else {})


def test_the_first_error_that_a_rank_told_is_the_cause(tmp_path):
    """Rank 1 fails, rank 0 is aborted for it; what an earlier attempt left says nothing of this one."""
    errors = [
        {"rank": 0, "time_ns": 20, "kind": "RuntimeError", "message": "peer lost", "where": None, "remedy": None},
        {"rank": 1, "time_ns": 10, "kind": "ValueError", "message": "bad record 7\nmore", "where": "m.py:3 in f"},
    ]
    for error in errors:
        (tmp_path / f"error.rank{error['rank']}.json").write_text(json.dumps(error))
    plain = diagnose(1, "", None)
    found = told_by_ranks(plain, tmp_path, since_unix_s=0.0)
    assert (found.kind, found.rank, found.exit_code) == ("ValueError", 1, 1)
    assert found.message == "rank 1: ValueError: bad record 7 (m.py:3 in f)"
    assert found.remedy
    assert told_by_ranks(plain, tmp_path, since_unix_s=time.time() + 60) == plain
    stopped = diagnose(143, "TERM", None)
    assert told_by_ranks(stopped, tmp_path, since_unix_s=0.0) == stopped
