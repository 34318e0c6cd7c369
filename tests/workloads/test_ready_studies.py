"""The studies in studies/ say what can be run: each is read, and every run it lists passes the rules."""

from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.study.expand import listed_runs, resolve_workload
from hpc_accel.study.rules import refusals
from hpc_accel.study.study import load_study
from hpc_accel.workloads.planned import facts_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_listed_run_can_work(path, monkeypatch):
    if path.stem == "keras":
        pytest.importorskip("keras", reason="keras is not installed (make extras)")
    monkeypatch.chdir(ROOT)
    study = load_study(path)
    for choice in study.workloads:
        if choice.name in ("driving", "imaging"):  # what they need is built in test_applications.py
            small = {"driving": {"samples": 80}, "imaging": {"patch": 16, "stride": 40}}[choice.name]
            choice = choice.model_copy(update={"args": small, "global_batch_size": 8})
        try:
            facts = facts_of(resolve_workload(choice), study.seed)
        except ConfigError as error:
            if "the extra" not in error.rule:
                raise
            pytest.skip(f"{error.value} (make extras)")
        runs = list(listed_runs(study, choice, facts))
        assert len(runs) >= 2
        assert [str(error) for run in runs for error in refusals(run, study.resources, facts)] == []
