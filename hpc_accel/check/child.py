"""What the process does that runs the user's code: `python -m hpc_accel.check.child STUDY FIRST DIRECTORY LIMIT_S`.

It leaves DIRECTORY/<number>.json for each workload from number FIRST on: what `_tried` returns, or the error.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hpc_accel.check.apart import DOING, EXITS, STACKS
from hpc_accel.check.layouts import listed
from hpc_accel.check.samples import look_at
from hpc_accel.check.trial import Trial, largest_with_values_bytes
from hpc_accel.errors import ConfigError, HpcAccelError, to_json
from hpc_accel.files import write_json
from hpc_accel.jobs.memory_option import with_memory_of
from hpc_accel.jobs.site import Site, load_site
from hpc_accel.study.expand import resolve_workload
from hpc_accel.study.sources import users_frame
from hpc_accel.study.study_file import Study, load_study

MAX_THREADS = 4
"""A login node is shared."""
Say = Callable[[str], None]


def main(study_path: Path, first: int, directory: Path, limit_s: float) -> NoReturn:
    """Try each workload. Ends the process at once: threads and exit handlers of the user's code wait for nobody."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), MAX_THREADS))
    home, leave = Path.cwd(), os._exit
    _note_exits(directory)

    def say(doing: str) -> None:
        (directory / DOING).write_text(doing)

    study = load_study(study_path)
    site = load_site(study.site)
    study = with_memory_of(study, site)
    with (directory / STACKS).open("w") as stacks:
        faulthandler.enable(stacks)
        for number in range(first, len(study.workloads)):
            faulthandler.dump_traceback_later(limit_s, file=stacks)
            result = _result(study, number, site, say)
            faulthandler.cancel_dump_traceback_later()
            os.chdir(home)
            write_json(directory / f"{number}.json", result)
    leave(0)


def _result(study: Study, number: int, site: Site, say: Say) -> dict[str, Any]:
    """What `_tried` finds, or {"error": why not}."""
    try:
        return _tried(study, number, site, say)
    except HpcAccelError as error:
        error.where = error.where or users_frame(error)
        return {"error": to_json(error)}
    except BaseException as error:
        where = users_frame(error)
        if where is None:
            traceback.print_exception(error)
        told = ConfigError(
            f"{study.workloads[number].entry or study.workloads[number].name}: {type(error).__name__}: {error}",
            "model, loss and data set can be used without failing",
            "correct the line that is named",
        )
        told.where = where or _last_line(error)
        return {"error": to_json(told)}


def _tried(study: Study, number: int, site: Site, say: Say) -> dict[str, Any]:
    """All that is told of a workload, in plain values."""
    from hpc_accel.workloads.entry import users_code
    from hpc_accel.workloads.facts_without_weights import build_up_to, facts_of, facts_of_built

    began_s = time.perf_counter()
    choice = study.workloads[number]
    spec = resolve_workload(choice)
    say(f"building {spec.entry}")
    workload = build_up_to(largest_with_values_bytes(), spec, study.seed)
    seen, trial = None, None
    if workload is None:
        say(f"building {spec.entry} without values")
        facts = facts_of(spec, study.seed)
    else:
        with users_code(spec.entry):
            seen = look_at(workload, spec.entry, say)
        say("running two samples through the model, layer by layer")
        facts = facts_of_built(workload, spec, study.seed, tries_cut=True)
    runs, left_out = listed(study, choice, facts, site)
    if workload is not None and seen is not None:
        trial = Trial(workload, spec.entry, seen, facts)
        with users_code(spec.entry):
            trial.whole(say)
            trial.pieces(runs or [], say)
    return {
        "entry": spec.entry,
        "num_parameters": facts.num_parameters,
        "num_samples": facts.num_samples,
        "unused_parameters": list(facts.unused_parameters),
        "samples": seen.to_json() if seen else None,
        "trial": trial.to_json() if trial else None,
        "num_runs": None if runs is None else len(runs),
        "left_out": left_out,
        "would_fail": trial.would_fail if trial else [],
        "time_s": round(time.perf_counter() - began_s, 3),
    }


def _note_exits(directory: Path) -> None:
    """Make `os._exit` say from which line it was called before it ends this process; in a forked one it is the old."""
    own, leave, path = os.getpid(), os._exit, directory / EXITS

    def noted(status: int) -> NoReturn:
        if os.getpid() == own:
            path.write_text(_line(traceback.extract_stack(limit=2)[0]))
        leave(status)

    os._exit = noted


def _last_line(error: BaseException) -> str | None:
    frames = traceback.extract_tb(error.__traceback__)
    return _line(frames[-1]) if frames else None


def _line(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno} in {frame.name}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
