"""The studies in studies/ say what can be run: each is read, and every run it lists passes the rules."""

import importlib.util
from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.study.expand import listed_runs, resolve_workload
from hpc_accel.study.expand_infer import inference_runs
from hpc_accel.study.rules import refusals
from hpc_accel.study.study_file import load_study
from hpc_accel.workloads.facts_without_weights import facts_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_listed_run_can_work(path, monkeypatch, tmp_path):
    if path.stem == "keras" and importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed (make extras)")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    study, num_runs = load_study(path), 0
    for written in study.workloads:
        # Fewer episodes: recording all of them would take most of the time.
        choice = written.model_copy(update={"args": {"samples": 120}}) if written.name == "driving" else written
        try:
            facts = facts_of(resolve_workload(choice), study.seed)
        except ConfigError as error:
            if "the extra" not in error.rule:
                raise
            pytest.skip(f"{error.value} (make extras)")
        runs = [*(listed_runs(study, choice, facts) if study.train else []), *inference_runs(study, choice)]
        num_runs += len(runs)
        assert [str(error) for run in runs for error in refusals(run, study.resources, facts)] == []
    assert num_runs >= 2, "a study compares"
