"""`hpc-accel run`: the study is checked, the workflow started, the screen kept, and the answer told at the end."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from hpc_accel.errors import UsageError
from hpc_accel.files import read_json
from hpc_accel.front.preflight import refuse_early
from hpc_accel.front.show import Lines, best_for, told
from hpc_accel.front.state import StudyState, Watcher
from hpc_accel.front.workflow import Workflow, command
from hpc_accel.jobs.failures import failures

PERIOD_S = 0.5
NOTHING_MEASURED = 1
STOPPED = 130


def results_of(study: Path) -> Path:
    """Where the workflow puts a study's results. Raises UsageError where there is no such study."""
    if not study.is_file() or study.suffix not in {".yaml", ".yml"}:
        known = ", ".join(str(path) for path in sorted(Path("studies").glob("*.yaml")))
        remedy = f"here are {known}" if known else "hpc-accel init writes one"
        raise UsageError(f"study {study}", "the study is a .yaml file that is there", remedy)
    return Path("results") / study.stem


def run_study(
    study: Path, *, profile: str | None, jobs: int | None, only: str | None, as_json: bool, tell: Callable[[str], None]
) -> int:
    """Run the workflow of `study` and tell its answer; the exit code.

    Raises UsageError, ConfigError and what `refuse_early` raises before anything starts.
    """
    from hpc_accel.study.study_file import load_study

    results = results_of(study)
    refuse_early(load_study(study), study, results, profile)
    words = command(study, profile=profile, jobs=jobs, further=_targets(results, only))
    began_s, log = time.time(), Path("logs") / results / "workflow.log"
    watcher = Watcher(results=results, log=log, since_unix_s=began_s)
    if not as_json:
        tell(f"{study}: the workflow's own words go to {log}; Ctrl-C stops, the same command goes on")
    code = _watched(Workflow(words, log), watcher, as_json=as_json, tell=tell)
    if code == STOPPED:
        tell(f"stopped; {_typed(study, profile, jobs, only)} goes on")
        return STOPPED
    causes = list(failures(results, log.parent, began_s))
    for cause in causes:
        _tell_red(cause)
    if code:
        if not causes:
            _tell_red(_last_words(log))
        _tell_red(f"the workflow ended with {code}; all that it said is in {log}")
        return code
    return _tell_answer(results, watcher.look(), as_json=as_json, tell=tell)


def watch_study(results: Path, *, as_json: bool, once: bool, tell: Callable[[str], None]) -> int:
    """Show what a study does that another process runs, until all of its runs have a result, and trainings have ended.

    Raises UsageError for a directory without results.
    """
    if not any((results / name).exists() for name in ("check.json", "hardware.json", "plan.json", "runs")):
        raise UsageError(
            f"{results}", "a study's results are below results/", "give the directory of a study's results"
        )
    watcher = Watcher(results=results, log=Path("logs") / results / "workflow.log")
    shown = Lines(tell) if once and not as_json else best_for(Console(), as_json=as_json, tell=tell)
    try:
        while True:
            state = watcher.look()
            shown.update(state, watcher.left_s(state))
            measured = state.runs and state.num_over == len(state.runs) and (results / "report.html").exists()
            if once or (measured and all(training.is_over for training in state.trainings)):
                break
            time.sleep(PERIOD_S)
    except KeyboardInterrupt:
        return STOPPED
    finally:
        shown.close()
    return 0


def _watched(workflow: Workflow, watcher: Watcher, *, as_json: bool, tell: Callable[[str], None]) -> int:
    """The workflow's exit code; STOPPED after Ctrl-C."""
    shown = best_for(Console(), as_json=as_json, tell=tell)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        while (code := workflow.ends_within(PERIOD_S)) is None:
            state = watcher.look()
            shown.update(state, watcher.left_s(state))
        state = watcher.look()
        shown.update(state, watcher.left_s(state))
    except KeyboardInterrupt:
        shown.close()
        tell("stopping: jobs are cancelled, runs on this machine end ...")
        workflow.stop()
        return STOPPED
    except BaseException:
        workflow.stop()
        raise
    finally:
        shown.close()
    return code


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """A closed terminal and a batch system stop the workflow as Ctrl-C does: its session is its own."""
    raise KeyboardInterrupt


def _targets(results: Path, only: str | None) -> Sequence[str]:
    """What Snakemake is asked for: everything, or the summaries of the planned runs whose name holds all of `only`."""
    if only is None:
        return ()
    runs = Watcher(results=results).look().runs
    words = only.replace(",", " ").split()
    chosen = [run for run in runs if all(_fits(word, run.workload, run.label) for word in words)]
    if not chosen:
        known = ", ".join(dict.fromkeys(run.label for run in runs))
        remedy = f"here are {known}" if known else "run without --only first: there is no plan yet"
        raise UsageError(f"--only {only}", "it names words of a planned run's label", remedy)
    return [str(results / "runs" / run.run_id / "summary.json") for run in chosen]


def _fits(word: str, workload: str, label: str) -> bool:
    """Whether `dp2`, `layout=dp2`, `precision=bf16` or `workload=lm` is said of a run: a word of its label, or of its
    layout's.
    """
    key, _, value = word.rpartition("=")
    words = label.split()
    return value == workload if key == "workload" else value in {*words, *words[0].split(".")}


def _tell_answer(results: Path, state: StudyState, *, as_json: bool, tell: Callable[[str], None]) -> int:
    """The answer, and the three paths that a person needs next."""
    measured = [run for run in state.runs if run.is_over and not run.has_failed]
    if not measured:
        _tell_red(f"none of {len(state.runs)} runs has a result; {results}/report.html has the cause of each")
        return NOTHING_MEASURED
    from hpc_accel.report.judge.answer import answer
    from hpc_accel.report.load import study_records

    if not (results / "report.html").exists():  # some runs alone were asked for
        for run in measured:
            tell(f"{run.workload}: {run.label}: {told(run)}")
        return 0
    found = answer(study_records.load(results))
    if as_json:
        import json

        tell(json.dumps({"event": "answer", **found.to_json()}))
        return 0
    tell(found.text.rstrip())
    scripts = [results / "runs" / run_id / "job.sbatch" for run_id in found.winners.values()]
    tell(f"report:  {results}/report.html")
    tell(f"script:  {' '.join(map(str, scripts)) or 'none: no run was ranked'}")
    for name in found.winners:
        which = f" --workload {name}" if len(found.winners) > 1 else ""
        tell(f"next:    hpc-accel produce {results}{which} --epochs N, which trains it to its end")
    return 0


def _typed(study: Path, profile: str | None, jobs: int | None, only: str | None) -> str:
    options = [f"--profile {profile}"] if profile else []
    options += [f"--jobs {jobs}"] if jobs else []
    options += [f"--only {only}"] if only else []
    return " ".join(["hpc-accel run", str(study), *options])


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.is_file() else []
    return "\n".join(lines[-5:]) or "Snakemake said nothing"


def _tell_red(text: str) -> None:
    """Errors go to standard error, red on a terminal, as they stand: no markup is read in them."""
    Console(file=sys.stderr, soft_wrap=True).print(Text(text, style="red"))


def planned_runs(study: Path) -> str:
    """What the next `run` would do, as far as it is known without measuring anything."""
    results = results_of(study)
    plan = read_json(results / "plan.json")
    state = Watcher(results=results).look()
    if not state.runs:
        return "check the study, probe the machine, plan; how many runs that makes is known with the plan"
    candidates = {each.get("run_id"): each for each in plan.get("candidates", [])}
    lines = []
    for run in state.runs:
        predicted = candidates.get(run.run_id, {}).get("prediction", {})
        time_ms = predicted.get("step_time_ms") if isinstance(predicted, dict) else None
        expected = f", {time_ms:.4g} ms/step predicted" if isinstance(time_ms, int | float) else ""
        lines.append(f"{run.workload}: {run.label}: {told(run) if run.is_over else 'to be measured'}{expected}")
    left = sum(not run.is_over for run in state.runs)
    return "\n".join([*lines, f"{left} of {len(state.runs)} runs are to be measured, by the plan that is there"])
