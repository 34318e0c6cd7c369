"""What each kind of reader sees of the same states."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from hpc_accel.files import write_json
from hpc_accel.front import trainings
from hpc_accel.front.show import Events, Lines, drawn, duration, summary, told
from hpc_accel.front.state import RunState, StudyState, Watcher
from tests.jobs.conftest import make_run

DONE = RunState(
    run_id="a", workload="lm", label="serial fp32 x1", status="completed", step_time_ms=12.5, samples_per_s=640.0
)
FAILED = RunState(run_id="b", workload="lm", label="tp2 fp32 x1", status="failed", cause="rank 1: [out] of memory")
RUNNING = RunState(
    run_id="c", workload="lm", label="dp2 fp32 x1", status="running", done=30, total=100, samples_per_s=900.0
)
WAITING = RunState(run_id="d", workload="lm", label="dp4 fp32 x1", status="waiting")
STATE = StudyState(stage="run", runs=(DONE, FAILED, RUNNING, WAITING), queue=("job 7: Resources",))


def test_a_screen_of_80_columns_has_all(tmp_path: Path) -> None:
    console = Console(record=True, width=80, file=(tmp_path / "out").open("w"))
    console.print(drawn(STATE, 240.0))
    text = console.export_text()
    for words in (
        "measuring: 2 of 4 runs done, 1 failed, about 4 min left",
        "done 12.5 ms/step, 640 samples/s",
        "failed: rank 1: [out] of memory",
        "step 30 of 100, 900 samples/s",
        "waits",
        "job 7: Resources",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_run_that_says_nothing_is_told() -> None:
    quiet = RunState(run_id="c", workload="lm", label="dp2", status="running", done=3, total=9, silent_s=75.0)
    assert told(quiet) == "step 3 of 9, nothing new for 75 s"
    assert summary(StudyState(stage="run", runs=(quiet,)), None).endswith("the time left is known after the first")
    assert [duration(each) for each in (45, 240, 7800)] == ["45 s", "4 min", "2 h 10 min"]


def test_lines_and_events_tell_what_changed_once() -> None:
    lines: list[str] = []
    plain = Lines(lines.append)
    for _ in range(3):
        plain.update(STATE, None)
    assert len(lines) == 5
    events: list[str] = []
    stream = Events(events.append)
    for _ in range(3):
        stream.update(STATE, None)
    assert [json.loads(each)["event"] for each in events] == ["stage", "run", "run", "run", "run"]


def test_states_are_read_from_the_files_of_runs(tmp_path: Path) -> None:
    watcher = Watcher(results=tmp_path)
    assert watcher.look() == StudyState(stage="check", runs=())
    runs = [make_run(1, ranks) for ranks in (1, 2, 3)]
    candidates = [
        {"chosen": each.layout.dp < 3, "run_id": each.run_id, "run": each.model_dump(mode="json")} for each in runs
    ]
    write_json(tmp_path / "plan.json", {"candidates": candidates})
    for each in runs[:2]:
        (tmp_path / "runs" / each.run_id).mkdir(parents=True)
        (tmp_path / "runs" / each.run_id / ".attempt").touch()
    log = tmp_path / "runs" / runs[0].run_id / "log.txt"
    log.write_text("step 4 of 80\nnoise\n")
    error = {"status": "failed", "error": {"message": "first\nsecond"}}
    write_json(tmp_path / "runs" / runs[1].run_id / "summary.json", error)
    first, second = watcher.look().runs
    assert (first.status, first.done, first.total, first.samples_per_s) == ("running", 4, 80, None)
    assert (second.status, second.cause, second.has_failed) == ("failed", "first", True)
    log.write_text("step 4 of 80\nstep 12 of 80\n")
    again = watcher.look().runs[0]
    assert again.done == 12
    assert again.samples_per_s is not None
    assert again.samples_per_s > 0
    assert watcher.left_s(watcher.look()) is not None


def test_trainings_with_their_curves(tmp_path: Path) -> None:
    directory = tmp_path / "production/mine"
    directory.mkdir(parents=True)
    write_json(directory / "run.json", {"run_id": "r", "measure": {"steps": 90}, "production": {"name": "mine"}})
    assert trainings.told(trainings.trainings_in(tmp_path)[0]) == "starts, or waits"
    (directory / "metrics.csv").write_text("step,loss,held_out_accuracy\n10,2.0,0.5\n20,1.0,\n30,1.5,0.9\n")
    found = trainings.trainings_in(tmp_path)
    assert trainings.told(found[0]) == "step 30 of 90, loss 1.5 █▁▅, accuracy 0.9 ▁█"
    state = StudyState(stage="report", runs=(DONE,), trainings=found)
    lines: list[str] = []
    plain, events = Lines(lines.append), Events(lines.append)
    for _ in range(2):
        plain.update(state, None)
        events.update(state, None)
    assert sum("training" in line for line in lines) == 2, "each tells it once"
    console = Console(record=True, width=80, file=(tmp_path / "out").open("w"))
    console.print(drawn(state, None))
    assert "█▁▅" in console.export_text()
    write_json(directory / "summary.json", {"run_id": "r", "status": "completed"})
    assert trainings.told(trainings.trainings_in(tmp_path)[0]).startswith("trained: step 30 of 30")


def test_a_job_waits_until_it_has_ended(tmp_path: Path) -> None:
    log = tmp_path / "workflow.log"
    said = "Job 5 has been submitted with SLURM jobid 77 (log: x).\njob 77 waits: Priority\njob 77 waits: Resources\n"
    log.write_text(said)
    watcher = Watcher(results=tmp_path, log=log)
    assert watcher.look().queue == ("job 77: Resources",)
    log.write_text(said + "Finished jobid: 5 (Rule: run)\n")
    assert watcher.look().queue == ()
