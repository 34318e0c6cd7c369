"""What is made once: by one of several at a time, and again when what it depends on changes."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hpc_accel.errors import CannotCreateError
from hpc_accel.workloads.builtin.cache import cached, directory


@pytest.fixture(autouse=True)
def cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hpc_accel"


def test_one_makes_it_and_the_others_wait(cache_directory):
    made = []

    def make():
        made.append(threading.get_ident())
        time.sleep(0.2)  # the others come meanwhile
        return {"x": torch.arange(5)}

    with ThreadPoolExecutor(4) as pool:  # each opens the lock for itself, as processes do
        found = list(pool.map(lambda _: cached("thing", {"size": 5}, make), range(4)))
    assert len(made) == 1
    assert all(torch.equal(each["x"], torch.arange(5)) for each in found)
    assert [path.suffix for path in sorted(cache_directory.iterdir())] == [".lock", ".safetensors"]


def test_another_key_is_another_file():
    assert cached("thing", {"size": 1}, lambda: {"x": torch.zeros(1)})["x"].tolist() == [0]
    assert cached("thing", {"size": 2}, lambda: {"x": torch.ones(1)})["x"].tolist() == [1]
    assert cached("thing", {"size": 1}, lambda: {"x": torch.ones(1)})["x"].tolist() == [0]


def test_a_failed_attempt_leaves_nothing_behind():
    with pytest.raises(ZeroDivisionError):
        cached("thing", {}, lambda: {"x": torch.zeros(1 // 0)})
    assert cached("thing", {}, lambda: {"x": torch.ones(1)})["x"].tolist() == [1]


def test_without_xdg_it_is_in_the_home(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert directory() == tmp_path / ".cache" / "hpc_accel"


def test_a_place_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CannotCreateError, match="XDG_CACHE_HOME"):
        cached("thing", {}, lambda: {"x": torch.ones(1)})
