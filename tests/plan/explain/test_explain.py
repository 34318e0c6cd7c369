"""The trees add up, and the timeline is the simulation that the prediction was made of."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError, DataError
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.explain.find import found_run
from hpc_accel.plan.explain.timeline import measured_events, predicted_events
from hpc_accel.plan.explain.tree import Node, memory_tree, time_tree
from hpc_accel.plan.software import torch_amp
from hpc_accel.study.layout import Layout
from tests.cli.test_mistakes import COMMAND
from tests.plan.examples import machine, model
from tests.plan.examples import run as made_run

LAYOUTS = {
    "serial": Layout(micro_batch_size=2, accumulation_steps=4),
    "replicas": Layout(dp=4, micro_batch_size=2, accumulation_steps=1),
    "tensor": Layout(dp=2, tp=2, micro_batch_size=2, accumulation_steps=2, shard="full"),
    "1f1b": Layout(pp=4, schedule="1f1b", micro_batch_size=1, accumulation_steps=8),
    "interleaved": Layout(
        pp=2, dp=2, schedule="interleaved_1f1b", stages_per_rank=2, micro_batch_size=1, accumulation_steps=4
    ),
    "zero bubble": Layout(
        pp=2, schedule="zbv_zero_bubble", stages_per_rank=2, micro_batch_size=1, accumulation_steps=4
    ),
}


def add_up(node: Node) -> None:
    if node.parts:
        assert sum(part.value for part in node.parts) == pytest.approx(node.value, rel=1e-9, abs=1e-15), node.name
    for part in node.parts:
        add_up(part)


@pytest.mark.parametrize("name", LAYOUTS)
def test_trees_add_up_and_the_timeline_ends_with_the_step(name):
    layout = LAYOUTS[name]
    fields = layout.model_dump(exclude={"micro_batch_size", "accumulation_steps"})
    run = made_run(**fields, micro=layout.micro_batch_size, accumulation=layout.accumulation_steps)
    known = StepModel(model(), machine(), "fp32", torch_amp(run.workload.optimizer, run.recipe))
    time, memory = time_tree(run, known), memory_tree(run, known)
    add_up(time)
    add_up(memory)
    assert time.value == pytest.approx(sum(known.parts_s(layout, run.resources).values()))
    assert memory.value == pytest.approx(known.peak_memory_bytes(layout), abs=2)
    events = [event for event in predicted_events(run, known) if event["ph"] == "X"]
    assert max(event["ts"] + event["dur"] for event in events) == pytest.approx(1e6 * time.value)
    passes = [event for event in events if event["name"].startswith(("forward", "backward"))]
    split = 3 if name == "zero bubble" else 2
    assert len(passes) == split * layout.num_stages * layout.accumulation_steps
    for rank in range(layout.pp):
        mine = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["pid"] == rank)
        assert all(a[1] <= b[0] + 1e-6 for a, b in itertools.pairwise(mine)), "one pass at a time"


def test_the_measured_step_begins_at_zero(tmp_path):
    path = tmp_path / "trace.json"
    names = [{"ph": "M", "pid": 0, "tid": 0, "name": "process_name", "args": {"name": "rank 0 (n1)"}}]
    steps = [{"ph": "X", "pid": 0, "tid": 0, "name": "step", "ts": 100.0 * i, "dur": 90.0 + i} for i in range(3)]
    inside = [{"ph": "X", "pid": 0, "tid": 0, "name": "forward", "ts": 110.0 + 100 * i, "dur": 5.0} for i in range(2)]
    path.write_text(json.dumps({"traceEvents": names + steps + inside}))
    events, seconds = measured_events(path)
    assert seconds == pytest.approx(91e-6)
    assert [(e["name"], e["ts"]) for e in events if e["ph"] == "X"] == [("step", 0.0), ("forward", 10.0)]
    assert events[0]["args"]["name"] == "measured rank 0 (n1)"
    path.write_text('{"traceEvents": []}')
    with pytest.raises(DataError, match="slices named step"):
        measured_events(path)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "workload: {name: mlp}\nlayouts: [{dp: [1, 2]}, {pp: 2, accumulation_steps: 4}]\n"
        "resources: {ranks_per_node: 2}\ncalibrate: false\nmeasure: {steps: 4, repeats: 2}\n"
    )
    machine = json.loads((Path(__file__).parents[2] / "cli" / "hardware.json").read_text())
    results = Path("results/mine")
    results.mkdir(parents=True)
    (results / "hardware.json").write_text(json.dumps(machine))

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=120, check=False)

    with pytest.raises(ConfigError, match="plan first"):
        found_run(Path("mine.yaml"), "mlp", "")
    planned = command(
        "plan", "mine.yaml", "--hardware", "results/mine/hardware.json", "--out", "results/mine/plan.json"
    )
    assert planned.returncode == 0, planned.stderr
    with pytest.raises(ConfigError, match="candidates of"):
        found_run(Path("mine.yaml"), "mlp", "")
    plan = json.loads((results / "plan.json").read_text())
    staged = next(each["run_id"] for each in plan["candidates"] if each["layout"]["pp"] == 2)
    done = command("plan", "explain", "mine.yaml", staged, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    candidate = next(each for each in plan["candidates"] if each["run_id"] == told["run_id"])
    assert told["step_s"]["value"] == pytest.approx(candidate["prediction"]["step_time_ms"] / 1e3)
    assert told["memory_bytes"]["value"] == pytest.approx(candidate["prediction"]["peak_memory_bytes"], abs=2)
    assert told["measured_step_s"] is None
    assert json.loads(Path(told["timeline"]).read_text())["traceEvents"]
    plain = command("plan", "explain", "mine.yaml", staged)
    assert "bubble" in plain.stdout and "not measured yet" in plain.stdout
    study, ids = Path("mine.yaml"), [each["run_id"] for each in plan["candidates"] if each["layout"]["dp"] == 2]
    assert sorted(found_run(study, each, "")[0].run_id for each in ids) == sorted(ids) and len(ids) == 2, "repeats"
    study.write_text(study.read_text().replace("{name: mlp}", "{name: mlp, global_batch_size: 512}"))
    with pytest.raises(ConfigError, match="plan again"):
        found_run(study, told["run_id"], "")
    study.write_text(study.read_text().replace("{name: mlp,", "{name: digits,"))
    with pytest.raises(ConfigError, match="not in the study"):
        found_run(study, told["run_id"], "")
