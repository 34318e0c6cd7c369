"""A script that was written before its site or study was edited runs as it stands, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc_accel.jobs.write import Places, write_run
from hpc_accel.study.run_file import write_run_file
from hpc_accel.study.sources import digest

from .bench import IN_SLURM, Bench
from .conftest import make_run

SAID = "edited since this script was written"


@pytest.fixture
def run_dir(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A planned run in the bench's directory, its site a file of the user's, its study noted by the plan."""
    monkeypatch.chdir(bench.directory)
    Path("mine.yaml").write_text("account: me\n")
    Path("study.yaml").write_text("workload: {name: digits}\n")
    content = make_run().model_dump(exclude={"run_id"}) | {"site": "mine.yaml"}
    run = type(make_run()).model_validate(content)
    directory = bench.directory / "results/study/runs" / run.run_id
    directory.mkdir(parents=True)
    write_run_file(run, directory)
    study = Path("study.yaml").resolve()
    (directory.parents[1] / ".study").write_text(f"{study}\n{digest(study)}\n")
    write_run(run, directory, Places(root=bench.directory, environment=bench.directory / "env"))
    return directory


def started(bench: Bench, run_dir: Path) -> str:
    code, output = bench.run(text=(run_dir / "job.sbatch").read_text(), slurm=IN_SLURM)
    assert code == 0, output
    return output


def test_edits_are_said_and_the_site_is_noted(bench: Bench, run_dir: Path):
    assert SAID not in started(bench, run_dir)
    was = digest(Path("mine.yaml"))
    assert json.loads((run_dir / "job.json").read_text())["written_from"] == {"mine.yaml": was}
    Path("mine.yaml").write_text("account: another\n")
    output = started(bench, run_dir)
    assert f"mine.yaml: {SAID}" in output and "study.yaml" not in output
    assert json.loads((run_dir / "job.json").read_text())["written_from"] == {"mine.yaml": was}, "that of the script"
    Path("study.yaml").write_text("workload: {name: lm}\n")
    assert f"mine.yaml, {Path('study.yaml').resolve()}: {SAID}" in started(bench, run_dir)


def test_results_of_an_older_version_say_nothing(bench: Bench, run_dir: Path):
    (run_dir / "request.json").unlink()
    (run_dir.parents[1] / ".study").write_text(f"{Path('study.yaml').resolve()}\n")
    Path("study.yaml").write_text("workload: {name: lm}\n")
    assert SAID not in started(bench, run_dir)
