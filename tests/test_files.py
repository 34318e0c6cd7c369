"""A file is written whole or not at all, and what prevents it is named with the exit code that fits."""

import os
import subprocess
import sys

import pytest

from hpc_accel.errors import CannotCreateError, InputOutputError
from hpc_accel.files import write_atomically


def test_old_content_stays_until_the_new_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.json"
    write_atomically(path, "one")
    assert path.read_text() == "one"

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputOutputError, match="No space left") as caught:
        write_atomically(path, b"two")
    assert caught.value.exit_code == 74
    assert path.read_text() == "one"
    assert os.listdir(path.parent) == ["a.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreateError, match="file") as caught:
        write_atomically(tmp_path / "file" / "hardware.json", "{}")
    assert caught.value.exit_code == 73


def test_a_limit_on_file_size_counts_as_a_full_disk(tmp_path):
    """As a quota does it: the write fails in the middle."""
    code = "from hpc_accel.files import write_atomically; from pathlib import Path; import sys\n"
    code += f"write_atomically(Path({str(tmp_path / 'a')!r}), 'x' * 100_000)"
    limited = f"ulimit -f 8; trap '' XFSZ; exec {sys.executable} -c \"{code}\""
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    assert "InputOutputError" in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
