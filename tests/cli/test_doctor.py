"""What `hpc-accel doctor` concludes, and what it shows at 80 columns."""

from __future__ import annotations

import pytest

from hpc_accel.doctor import Finding, _slurm, show, verdict

OK = Finding(name="torch", status="ok", value="2.13")
ENERGY = Finding(name="energy", status="ok", value="rapl: cpu-package")
NO_SLURM = Finding(name="slurm", status="gap", value="no sbatch on PATH", remedy="log in to a submit node", who="you")
SLURM = Finding(name="slurm", status="ok", value="slurm 24.05")
NO_MPI = Finding(name="mpi", status="broken", value="libmpi.so is not found", remedy="make env", who="you")


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([OK, ENERGY, SLURM], "ready: a study can start on this cluster"),
        ([OK, NO_SLURM], "ready: a study can start on this machine; its report will have no energy"),
        ([OK, NO_MPI, ENERGY, SLURM], "not ready: mpi must work before a study can start"),
    ],
)
def test_the_last_line_says_whether_a_study_can_start(findings, expected, monkeypatch, capsys):
    assert verdict(findings) == expected
    monkeypatch.setenv("COLUMNS", "80")
    show(findings)
    assert capsys.readouterr().out.splitlines()[-1].strip() == expected


def test_words_stay_whole_and_each_gap_says_who_can_close_it(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    long = Finding(
        name="energy",
        status="gap",
        value=" ".join(["administrator"] * 12),
        remedy="chmod a+r energy_uj",
        who="an administrator",
    )
    show([long])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert {word for line in lines[:2] for word in line.split()} == {"gap", "energy", "administrator"}
    assert "do (an administrator): chmod a+r energy_uj" in " ".join(line.strip() for line in lines)


def test_a_shell_that_does_not_know_the_throwaway_cluster_is_told_the_line(tmp_path, monkeypatch):
    for name, does in (("sbatch", "echo slurm 22.05"), ("sinfo", "echo no controller >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.chdir(tmp_path)
    assert next(_slurm()).who == "an administrator"
    (tmp_path / ".cluster").mkdir()
    (tmp_path / ".cluster/env").touch()
    assert "source .cluster/env" in next(_slurm()).remedy
