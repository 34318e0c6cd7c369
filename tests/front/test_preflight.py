"""Mistakes that beginners make, each answered before anything starts, with value, rule and remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hpc_accel.errors import InputOutputError
from hpc_accel.files import write_json
from hpc_accel.front import preflight
from hpc_accel.front.preflight import refuse_early
from hpc_accel.study.study_file import load_study
from tests.cli.test_mistakes import COMMAND

STUDY = "workload: {name: digits, global_batch_size: 64}\nlayouts: [{dp: 2}]\nresources: {ranks_per_node: 2}\n"


def wrong_key(at: Path) -> None:
    (at / "s.yaml").write_text(STUDY.replace("layouts", "layout"))


def no_module(at: Path) -> None:
    (at / "s.yaml").write_text(STUDY.replace("name: digits", 'entry: "nowhere.to_be_found:build"'))


def moved(at: Path) -> None:
    (at / "old").mkdir()
    (at / "old/s.yaml").write_text(STUDY)
    (at / "results/s").mkdir(parents=True)
    (at / "results/s/.study").write_text(f"{at}/old/s.yaml\nabc\n")


def other_version(at: Path) -> None:
    (at / "results/s/runs/a").mkdir(parents=True)
    write_json(at / "results/s/runs/a/summary.json", {"format": 1, "status": "completed"})


def in_the_way(at: Path) -> None:
    (at / "results").write_text("a file\n")


MISTAKES: dict[str, tuple[Callable[[Path], None], list[str], int, str]] = {
    "wrong key": (wrong_key, [], 78, "layouts"),
    "no module": (no_module, [], 78, "no module 'nowhere.to_be_found'"),
    "no Slurm": (lambda at: None, ["--profile", "slurm"], 78, "no sbatch on PATH"),
    "no MPI": (lambda at: None, [], 78, "no mpirun on PATH"),
    "study moved": (moved, [], 78, "holds the results of"),
    "another version": (other_version, [], 78, "1 of 1 runs in results/s are of another version (format 1"),
    "a file in the way": (in_the_way, [], 73, "cannot be written"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_at_once(name: str, tmp_path: Path) -> None:
    make, more, code, told = MISTAKES[name]
    (tmp_path / "s.yaml").write_text(STUDY)
    make(tmp_path)
    environ = dict(os.environ)
    program = COMMAND
    if name in {"no MPI", "no Slurm"}:  # nothing but what the system has, and this program
        program = tmp_path / "bin/hpc-accel"
        program.parent.mkdir()
        shutil.copy(COMMAND, program)
        (program.parent / "python").symlink_to(shutil.which("true") or "/bin/true")
        environ["PATH"] = str(program.parent)
    done = subprocess.run(
        [program, "run", "s.yaml", *more],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert told in " ".join(said.split())
    assert "remedy:" in said
    assert "Traceback" not in said
    assert not (tmp_path / "logs").exists(), "nothing was started"


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{COMMAND.parent}:{os.environ['PATH']}")
    Path("s.yaml").write_text(STUDY)
    study = load_study(Path("s.yaml"))
    refuse_early(study, Path("s.yaml"), Path("results/s"), None)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(InputOutputError, match="1 MiB are free"):
        refuse_early(study, Path("s.yaml"), Path("results/s"), None)
