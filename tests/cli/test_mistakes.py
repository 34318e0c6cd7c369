"""A user's mistakes get value, rule, remedy and exit code 78 from the command line, before any rank starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("hpc-accel")
HARDWARE = Path(__file__).parent / "hardware.json"
MODEL = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
def build():
    return nn.Linear(4, 2), nn.functional.mse_loss, TensorDataset(torch.randn(64, 4), torch.randn(64, 2))
"""


def call(directory, *arguments, timeout_s=120):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMI", "SLURM_"))}
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def plan(directory, study, model=MODEL):
    (directory / "my_model.py").write_text(model)
    (directory / "s.yaml").write_text(study)
    return call(directory, "plan", "s.yaml", "--hardware", str(HARDWARE), "--out", "results/s/plan.json")


GOOD = 'workload: {entry: "my_model:build", global_batch_size: 16}\nresources: {ranks_per_node: 2}\n'


@pytest.mark.parametrize(
    ("study", "model", "expected"),
    [
        (GOOD.replace("my_model", "their_model"), MODEL, "no module 'their_model'"),
        (GOOD + "layouts: [{}]\n", "def build(size): ...", "signature is build(size)"),
        (GOOD + "layout: [{}]\n", MODEL, "s.yaml:3: unknown key 'layout'"),
        (GOOD + "layouts: [{tp: 2}]\n", MODEL, "tensor plan"),
        (GOOD + "layouts: [{pp: 2}]\n", MODEL, "torch.nn.Sequential"),
        (GOOD + "layouts: [{dp: 3}]\n", MODEL, "does not divide"),
        (GOOD + "layouts: [{dp: 4}]\n", MODEL, "4 ranks"),
        (GOOD + "site: nowhere\n", MODEL, "site 'nowhere'"),
        (GOOD + "recipes: [{precision: fp7}]\n", MODEL, "fp7"),
        (GOOD.replace("my_model:build", "my_model"), MODEL, "s.yaml:1: workload.entry is 'my_model'"),
        (GOOD + "seed: 123456789012345678901\n", MODEL, "s.yaml:3: seed is 123456789012345678901"),
        (GOOD + "layouts: [{pp: 1000000000}]\n", MODEL, "1000000000 ranks"),
        ("workload: [{entr: my_model}]\n", MODEL, "s.yaml:1: unknown key 'workload.0.entr'"),
        (GOOD, MODEL.replace("return", "raise KeyError('gone');"), "my_model.py:6 in build"),
    ],
)
def test_plan_refuses_with_value_rule_and_remedy(tmp_path, study, model, expected):
    done = plan(tmp_path, study, model)
    assert done.returncode == 78, done.stderr
    assert expected in done.stderr
    assert "rule:" in done.stderr
    assert "remedy:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_data_set_that_changes_the_directory_moves_no_plan(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moving = "    def __getitem__(self, index):\n        import os; os.chdir(os.environ['ELSEWHERE'])\n"
    moving = moving.replace("os.environ['ELSEWHERE']", repr(str(tmp_path / "elsewhere")))
    model = f"class Data(TensorDataset):\n{moving}        return super().__getitem__(index)\n"
    done = plan(tmp_path, GOOD + "layouts: [{}]\n", MODEL.replace(", TensorDataset(", ", Data(") + model)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/s/plan.json").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_usage_errors_have_their_own_code():
    assert call(".", "plan").returncode == 64
    assert call(".", "check", "--no-such-option", "s.yaml").returncode == 64


def scripts(directory) -> list[Path]:
    """run.json of every run that the plan chose."""
    done = call(directory, "script", "results/s/plan.json")
    assert done.returncode == 0, done.stderr
    return sorted(directory.glob("results/s/runs/*/run.json"))


def test_plan_of_a_users_model_holds_its_runs(tmp_path):
    done = plan(tmp_path, GOOD + "layouts: [{}, {dp: 2}]\n")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "results/s/runs").glob("*/run.json"))) == 2
    content = json.loads((tmp_path / "results/s/plan.json").read_text())
    chosen = [candidate for candidate in content["candidates"] if candidate["chosen"]]
    assert len(scripts(tmp_path)) == 2
    assert [candidate["layout"]["dp"] for candidate in chosen] == [1, 2]
    for candidate in chosen:
        run = json.loads((tmp_path / "results/s/runs" / candidate["run_id"] / "run.json").read_text())
        assert run["layout"]["dp"] == candidate["layout"]["dp"]
        assert candidate["prediction"]["step_time_ms"] > 0
        request = json.loads((tmp_path / "results/s/runs" / candidate["run_id"] / "request.json").read_text())
        assert (request["tasks"], request["measuring"]) == (run["layout"]["dp"], 1)
    first = [path.read_bytes() for path in scripts(tmp_path)]
    assert plan(tmp_path, GOOD + "layouts: [{}, {dp: 2}]\n").returncode == 0
    assert [path.read_bytes() for path in scripts(tmp_path)] == first
    other = call(tmp_path, "script", "results/s/plan.json", "--run", "digits-dp9")
    assert other.returncode == 78 and "chose 2 run(s), not this one" in other.stderr


def test_planner_proposes_layouts(tmp_path):
    done = plan(tmp_path, GOOD + "layouts: auto\nsearch: {keep: 2}\n")
    assert done.returncode == 0, done.stderr
    candidates = json.loads((tmp_path / "results/s/plan.json").read_text())["candidates"]
    assert 1 <= sum(candidate["chosen"] for candidate in candidates) <= 3
    assert any(candidate["refused"] for candidate in candidates)
    assert all(candidate["why"] for candidate in candidates if candidate["chosen"])


def test_train_refuses_an_edited_run(tmp_path):
    assert plan(tmp_path, GOOD + "layouts: [{}]\n").returncode == 0
    [path] = scripts(tmp_path)
    path.write_text(path.read_text().replace('"seed":0', '"seed":1').replace('"seed": 0', '"seed": 1'))
    done = call(tmp_path, "train", str(path))
    assert done.returncode == 78
    assert "edited" in done.stderr


def test_train_and_infer_take_their_own_runs_only(tmp_path):
    both = GOOD + "layouts: [{}]\ninfer: {arrival_rates_per_s: [9]}\n"
    assert plan(tmp_path, both).returncode == 0
    paths = scripts(tmp_path)
    [serves] = [path for path in paths if "-b1-" in str(path)]
    [trains] = [path for path in paths if path != serves]
    for command, path, other in (("train", serves, "infer"), ("infer", trains, "train")):
        done = call(tmp_path, command, str(path))
        assert done.returncode == 78, done.stderr
        assert f"hpc-accel {other}" in done.stderr


def test_init_writes_a_study_and_never_overwrites(tmp_path):
    done = call(tmp_path, "init", "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "studies/mine.yaml").exists()
    assert (tmp_path / "mine_model.py").exists()
    again = call(tmp_path, "init", "--name", "mine")
    assert again.returncode == 73
    assert "never overwritten" in again.stderr
    assert call(tmp_path, "init", "--name", "not a name").returncode == 64


def test_help_of_every_command():
    listing = call(".", "--help").stdout
    for command in ("doctor", "init", "probe", "plan", "script", "supervise", "pack", "train", "infer", "report"):
        assert command in listing
        done = call(".", command, "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout


@pytest.mark.mpi
def test_doctor_finds_what_this_machine_has(tmp_path):
    done = call(tmp_path, "doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert findings["torch"]["status"] == "ok"
    assert findings["mpi"]["status"] == "ok"
    assert "Open MPI" in findings["mpi"]["value"] or "MPICH" in findings["mpi"]["value"]
    assert findings["launcher"]["status"] == "ok", findings["launcher"]
    assert "energy" in findings
    assert done.returncode == 0
