"""`hpc-accel bench backend`: it starts its own ranks, or takes those it is started on, and writes what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hpc_accel.mpi.launch import SIZE_VARIABLES
from tests.mpirun import ENVIRONMENT, check, mpirun

QUICK = ("--quick", "--only", "all_reduce,ddp_cnn")
COMMAND = "from hpc_accel.cli import main; main()"


def alone(*arguments: str, what: str = "backend") -> subprocess.CompletedProcess[str]:
    """The command as a user types it, outside of any launcher."""
    environment = {k: v for k, v in {**os.environ, **ENVIRONMENT}.items() if k not in dict(SIZE_VARIABLES)}
    command = [sys.executable, "-c", COMMAND, "bench", what, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)


def assert_whole(document: dict, num_ranks: int, names: list[str]) -> None:
    assert [entry["name"] for entry in document["entries"]] == names
    assert document["versions"]["num_ranks"] == num_ranks
    assert document["quick"] is True
    for entry in document["entries"]:
        assert all(seconds > 0 for seconds in entry["times_s"].values())
        others = {"bare"} if entry["name"] == "all_reduce" else {"none", "silent"}
        assert set(entry["times_s"]) == {"mpi4py", "gloo"} | others
        assert entry["ratio_gloo"] == pytest.approx(entry["times_s"]["gloo"] / entry["times_s"]["mpi4py"])


@pytest.mark.mpi
def test_it_starts_its_own_ranks(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figures.json"
    result = alone(*QUICK, "--json", str(path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("gloo/mpi4py") == 4
    assert_whole(json.loads(path.read_text()), 2, ["all_reduce"] * 3 + ["ddp_cnn"])


@pytest.mark.mpi
def test_it_takes_the_ranks_it_is_started_on(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    output = check(
        mpirun(3, ["-c", COMMAND, "bench", "backend", "--quick", "--only", "all_reduce", "--json", path], 150)
    )
    assert output.count("gloo/mpi4py") == 3, "rank 0 alone prints"
    assert_whole(json.loads(path.read_text()), 3, ["all_reduce"] * 3)


def test_an_unknown_row_is_refused() -> None:
    result = alone("--only", "all_reduce,nothing")
    assert result.returncode == 78
    assert "known are all_reduce, ddp_mlp" in result.stderr


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_without_a_gpu_that_one_is_refused_before_any_rank_starts() -> None:
    result = alone(what="gpu")
    assert result.returncode == 78
    assert result.stderr.count("torch sees no GPU") == 1


@pytest.mark.gpu
@pytest.mark.mpi
def test_device_tensors_two_ranks_may_share_a_gpu(tmp_path: Path) -> None:
    path, trace = tmp_path / "figures.json", tmp_path / "trace.json"
    result = alone("--quick", "--json", str(path), "--trace", str(trace), what="gpu")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads(path.read_text())["entries"]
    assert [row["name"] for row in rows] == ["all_reduce"] * 2 + ["ddp_mlp", "ddp_transformer", "ddp_cnn"]
    for row in rows:
        assert all(seconds > 0 for seconds in row["times_s"].values())
    assert {"staged", "copy_in", "host", "copy_out"} == set(rows[0]["times_s"])
    assert all(0 <= row["hidden"] <= 1 for row in rows[2:])
    assert json.loads(trace.read_text())["traceEvents"]
