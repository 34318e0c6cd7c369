"""What `init --from` writes runs as it is, in two replicas as in the serial run; the guide shows lines of it."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec

import pytest

from hpc_accel.errors import UsageError
from hpc_accel.study.starter import HERE, STARTERS, write_starter
from hpc_accel.study.study_file import load_study
from tests.mpirun import ROOT, check, mpirun
from tests.train.parity.many import compute_references
from tests.train.parity.test_planted import MEASURE
from tests.train.test_layouts import SCRIPT, write_runs

KINDS = [kind for kind in STARTERS if kind != "huggingface" or find_spec("transformers")]


@pytest.mark.mpi
def test_every_starter_trains_as_the_serial_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    paths = []
    for kind in KINDS:
        write_starter(tmp_path, kind, kind)
        [workload] = load_study(tmp_path / f"studies/{kind}.yaml").workloads
        said = workload.model_dump(exclude_unset=True, mode="json")
        paths += write_runs(tmp_path, {**said, "name": kind}, [{"dp": 2}], measure=MEASURE)
    compute_references(paths)
    check(mpirun(2, [SCRIPT, *paths], 200, PYTHONPATH=f"{tmp_path}:{ROOT}"))
    for path in paths:
        summary = json.loads((path.parent / "summary.json").read_text())
        assert (summary["status"], summary["parity"]["passed"]) == ("completed", True), summary["parity"]


def test_the_guide_shows_lines_of_the_starters():
    text = (ROOT / "docs/your-model.md").read_text()
    written = "".join((HERE / f"{kind}.py.txt").read_text() for kind in STARTERS)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(lines) >= 6
    assert [line for line in lines if line not in written.splitlines()] == []
    [study] = re.findall(r"```yaml\n(\s*optimizer.*?)```", text, re.DOTALL)
    assert study.strip() in f"optimizer: {STARTERS['script'].optimizer}".replace("@NAME@", "mine")


def test_another_kind_is_refused(tmp_path):
    with pytest.raises(UsageError, match="plain, huggingface, vision, script"):
        write_starter(tmp_path, "mine", "keras")
