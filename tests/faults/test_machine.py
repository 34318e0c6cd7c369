"""A machine without home, temporary files or shared memory: made up for, or told before any rank starts."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.faults.started import prepare, start

pytestmark = pytest.mark.mpi
NO_NAMESPACES = bool(subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode)
namespaces = pytest.mark.skipif(NO_NAMESPACES, reason="this user may not mount file systems of their own")


def mounted(size: str, where: str, then: str = "true") -> list[str]:
    """A command that starts others where `where` is a file system of `size`, in which `then` was done."""
    return ["unshare", "-m", "bash", "-c", f'mount -t tmpfs -o size={size} none {where} && {then}; exec "$@"', "-"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("machine"), {"dp": 2}, measure={"steps": 20})


def test_without_home(directory):
    started = start(directory, before=["env", "-u", "HOME"])
    assert started.wait(60) == 0, started.log()
    assert "HOME is not set: ranks get /" in started.log()


@namespaces
@pytest.mark.parametrize(
    ("code", "size", "where", "then", "told"),
    [
        (78, "8m", "/dev/shm", "true", ["/dev/shm has 8.0 MiB free", "24 MiB", "--shm-size"]),
        (74, "64k", "{tmp}", "head -c 65536 /dev/zero > {tmp}/full", ["{tmp}: No space left", "set TMPDIR"]),
        (73, "64k", "{tmp}", "true", ["{tmp}/under/a-file: Not a directory", "set TMPDIR"]),
    ],
)
def test_what_is_missing_is_told_before_a_rank_starts(directory, tmp_path, code, size, where, then, told):
    (tmp_path / "under").touch()
    tmp = str(tmp_path)
    before = mounted(size, where.format(tmp=tmp), f"touch {tmp}/under && {then.format(tmp=tmp)}")
    from_here = {"TMPDIR": f"{tmp}/under/a-file" if code == 73 else tmp} if code != 78 else {}
    started = start(directory, before=before, **from_here)
    assert started.wait(30) == code, started.log()
    for words in told:
        assert words.format(tmp=tmp) in started.log()
    assert "rule:" in started.log()
    assert not (directory / "error.rank0.json").exists()


@namespaces
def test_the_remedy_for_little_shared_memory_works(directory):
    started = start(directory, before=mounted("8m", "/dev/shm"), OMPI_MCA_btl="self,tcp")
    assert started.wait(60) == 0, started.log()


def test_a_missing_directory_of_temporary_files_is_made(directory, tmp_path):
    started = start(directory, TMPDIR=str(tmp_path / "new"))
    assert started.wait(60) == 0, started.log()
    assert os.listdir(tmp_path) == ["new"]
