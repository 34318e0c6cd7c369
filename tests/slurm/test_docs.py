"""docs/cluster.md as a newcomer reads it: every command of its ten steps, in order, on the real cluster."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from .conftest import BIN, ROOT, Cluster, read

STEPS = re.split(r"^\*\*\d+\. ", (ROOT / "docs/cluster.md").read_text().partition("## When something")[0], flags=re.M)[
    1:
]
# What step 6 asks the reader to do in an editor; short, so that the whole takes a minute.
EDITED = (
    "sed -i -e 's/^site: local .*/site: mycluster\\nsame_allocation: true/' -e 's/steps: 30/steps: 2/'"
    " -e 's/precision: \\[fp32, bf16\\]/precision: fp32/' -e 's/^  time_limit_min: 10/  memory_mb: 2500\\n&/'"
    " studies/mine.yaml"
)


def commands(step: str) -> str:
    return "\n".join(re.findall(r"```bash\n(.*?)```", step, re.DOTALL))


@pytest.mark.timeout(600)
def test_ten_steps(cluster: Cluster):
    assert len(STEPS) == 10
    here = cluster.directory / "checkout"
    here.mkdir()
    # Steps 1 and 2 get and install it: the tests run in what they give.
    assert "git clone" in commands(STEPS[0]) and "make env" in commands(STEPS[1])
    for name in ("slurm", "studies", "envs", "workflow", "profiles"):
        shutil.copytree(ROOT / name, here / name)
    shutil.copy(ROOT / "Snakefile", here)
    (here / ".venv").symlink_to(BIN.parent)
    for number, step in enumerate(STEPS[2:], 3):
        assert commands(step), f"step {number} has a command"
        typed = f"set -eo pipefail\nsource .venv/bin/activate\n{commands(step)}"
        output = cluster.run("bash", "-c", typed, timeout_s=280, cwd=here)
        if number == 6:
            cluster.run("bash", "-c", EDITED, cwd=here)
        if number == 7:
            assert "rule probe" in output
    job_id = re.search(r"Submitted batch job (\d+)", output)[1]
    cluster.wait(job_id)
    runs = list((here / "results/mine/runs").iterdir())
    assert sorted(read(path)["status"] for path in runs) == ["completed"] * 3
    assert {read(path)["site"] for path in runs} == {"mycluster"}
    assert job_id in {read(path)["job_id"] for path in runs}
    assert "mine" in (here / "results/mine/answer.txt").read_text()
    assert Path(here / "results/mine/accounting.json").exists()
