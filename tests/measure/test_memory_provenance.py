"""Peak memory of a stretch of work, and facts about where it ran."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from hpc_accel.measure import peak_memory, provenance

MIB = 1 << 20


def test_the_peak_begins_anew():
    block = np.ones(64 * MIB, dtype=np.uint8)
    before = peak_memory.peak_bytes()
    del block
    if not peak_memory.reset_peak():
        pytest.skip("the kernel does not let this process reset its peak")
    after = peak_memory.peak_bytes()
    assert before - after > 48 * MIB
    block = bytearray(96 * MIB)
    assert peak_memory.peak_bytes() - after > 80 * MIB
    del block
    assert peak_memory.scope() == "resident set"


def test_provenance_is_json_and_honest():
    facts = json.loads(json.dumps(provenance.collect()))
    assert facts["python"] == sys.version.split()[0]
    assert facts["torch"]
    assert facts["cpu"]
    assert facts["host"]


def test_settings_that_change_a_figure_are_kept_and_private_ones_never(monkeypatch):
    kept = {"CUDA_LAUNCH_BLOCKING": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "NCCL_ALGO": "Ring", "UCX_TLS": "rc,cuda"}
    left_out = {"NCCL_AUTH_TOKEN": "abc", "UCX_SOME_PASSWORD": "abc", "WANDB_API_KEY": "abc", "HOME_PAGE": "abc"}
    for name, value in (kept | left_out).items():
        monkeypatch.setenv(name, value)
    found = provenance.collect()["environment"]
    assert kept.items() <= found.items()
    assert not left_out.keys() & found.keys()


def test_no_commit_outside_a_repository(tmp_path):
    assert provenance.git_commit(tmp_path) is None


def test_a_changed_tree_says_so(tmp_path):
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    commit = provenance.git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "file").write_text("two")
    assert provenance.git_commit(tmp_path) == commit + "+changes"


def test_asking_for_versions_imports_neither_torch_nor_mpi():
    code = "import sys; from hpc_accel.measure import provenance; provenance.collect(); "
    code += "print([m for m in ('torch', 'mpi4py.MPI', 'pynvml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
