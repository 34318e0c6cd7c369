"""Which of the user's files a workload depends on, without running them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.study.expand import listed_runs, resolve_workload
from hpc_accel.study.sources import MAX_HASHED_BYTES, changed, digest, sources
from hpc_accel.study.study_file import Study
from tests.study.test_expand import facts

FILES = {
    "sources_of_test.py": "import json, torch\nfrom lib_of_test import blocks\n",
    "lib_of_test/__init__.py": "raise RuntimeError('read, not run')\n",
    "lib_of_test/blocks.py": "from . import layers\nfrom .deep.norm import Norm as N\n",
    "lib_of_test/layers.py": "WORDS = 'words.txt'\nABSENT = 'absent.txt'\n",
    "lib_of_test/deep/__init__.py": "",
    "lib_of_test/deep/norm.py": "from ..unused_name import *\nimport lib_of_test.layers\n",
    "lib_of_test/unrelated.py": "",
    "words.txt": "a b c\n",
    "data/train.bin": "01",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_modules_that_are_imported_and_files_that_are_named(project):
    found = sources("sources_of_test:build", {"data": {"files": ["data/train.bin", "data/absent.bin"], "size": 3}})
    assert set(found) == set(FILES) - {"lib_of_test/unrelated.py"}
    assert changed(found) == []


@pytest.mark.parametrize("name", ["lib_of_test/deep/norm.py", "words.txt", "data/train.bin"])
def test_an_edit_of_any_of_them_is_seen_and_makes_another_run(project, name):
    def workload():
        choice = {"entry": "sources_of_test:build", "args": {"path": "data/train.bin"}, "global_batch_size": 4}
        return resolve_workload(Study(name="s", workload=choice).workloads[0])

    before = workload()
    with (project / name).open("a") as file:
        file.write("# edited\n")
    assert changed(before.sources) == [name]
    assert workload() != before
    (project / "lib_of_test/unrelated.py").write_text("X = 1\n")
    assert changed(workload().sources) == []


def test_folders_without_init_and_files_beside_the_module_that_names_them(project):
    folder = project / "no_init_of_test" / "deeper"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(
        "from . import other\nfrom no_init_of_test.deeper import third\nD = 'beside.csv'\n"
    )
    for name in ("other.py", "third.py", "beside.csv"):
        (folder / name).write_text("")
    found = sources("no_init_of_test.deeper.model:build", {})
    assert {Path(name).name for name in found} == {"model.py", "other.py", "third.py", "beside.csv"}


def test_a_file_that_is_gone_is_a_change(project):
    known = sources("sources_of_test:build", {})
    (project / "words.txt").unlink()
    assert changed(known) == ["words.txt"]


def test_installed_modules_are_nobodys_sources():
    assert sources("hpc_accel.workloads.builtin.digits:build", {}) == {}
    assert sources("json:loads", {}) == {}


def test_a_large_file_is_known_by_size_and_time(project):
    path = Path("large.bin")
    with path.open("wb") as file:
        file.truncate(MAX_HASHED_BYTES + 1)
    first = digest(path)
    with path.open("ab") as file:
        file.write(b"x")
    assert digest(path) != first


def test_what_cannot_be_read_is_said(project):
    with pytest.raises(ConfigError, match="no module 'absent_module'"):
        sources("absent_module:build", {})
    with pytest.raises(ConfigError, match=r"no module 'lib_of_test.absent'"):
        sources("lib_of_test.absent:build", {})
    (project / "lib_of_test/layers.py").write_text("def build(:\n")
    with pytest.raises(ConfigError, match=r"layers.py.*line 1"):
        sources("sources_of_test:build", {})


def test_a_run_planned_before_an_edit_says_so_when_it_is_started(project):
    study = Study(
        name="s",
        workload={"name": "w", "entry": "sources_of_test:build", "global_batch_size": 4},
        layouts=[{"dp": 1}],
    )
    [run] = listed_runs(study, study.workloads[0], facts())
    Path("run.json").write_text(run.model_dump_json())
    (project / "words.txt").write_text("d\n")
    command = [sys.executable, "-c", "from hpc_accel.cli import main; main()", "train", "run.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert "words.txt changed since run.json was planned" in done.stderr
    assert "Traceback" not in done.stderr
