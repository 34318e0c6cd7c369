"""A published grid replayed: what a twentieth of its cost finds."""

from __future__ import annotations

import csv
import json
import subprocess

import pytest

from hpc_accel.plan.evaluate.replay import replay
from tests.cli.test_mistakes import COMMAND
from tests.plan.evaluate.test_evaluate import A100


def test_a_twentieth_of_the_grid_finds_the_best_in_nine_of_ten_groups():
    found = replay(A100, "a100-sxm-80gb", budget=0.05, short=0.2)
    learning, rule, chance = (found["ways"][name] for name in ("planner, learning", "rule of thumb", "by chance"))
    assert (found["num_groups"], found["num_rows"]) == (72, 740)
    assert learning["within_1_percent"] >= 90 > rule["within_1_percent"] > chance["within_1_percent"]
    assert learning["mean_spent"] < 5 and learning["max_trials"] <= 5
    alone = replay(A100, "a100-sxm-80gb", budget=1, short=0.2, most=5)["ways"]["planner, learning"]
    assert alone["within_1_percent"] >= 95 and alone["max_trials"] <= 5


def test_the_whole_grid_finds_the_best_and_a_planted_best_is_found(tmp_path):
    """Rows are judged by their own times: made a hundred times faster, a row that the planner expects least is best."""
    rows = list(csv.DictReader(line for line in A100.read_text().splitlines() if not line.startswith("#")))
    key = ("gpus", "global_batch", "hidden", "layers", "seq_len")
    group = [row for row in rows if all(row[k] == rows[0][k] for k in key)]
    slowest = max(group, key=lambda row: float(row["iter_ms"]))
    slowest["iter_ms"] = str(float(slowest["iter_ms"]) / 100)
    path = tmp_path / "planted.csv"
    with path.open("w") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(group)
    whole = replay(path, "a100-sxm-80gb", budget=1, short=1)["ways"]
    assert whole["planner's order"]["mean_regret"] == pytest.approx(0)
    assert whole["planner's order"]["mean_spent"] == pytest.approx(100)
    assert replay(path, "a100-sxm-80gb", budget=1, short=1, most=1)["ways"]["planner's order"]["mean_regret"] > 500


def test_the_command():
    words = [COMMAND, "plan", "replay", str(A100), "--hardware", "a100-sxm-80gb", "--most", "3"]
    told = subprocess.run([*words, "--json"], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(told.stdout)["most"] == 3
    plain = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert "choice within 1 %" in plain.stdout and "by chance" in plain.stdout
