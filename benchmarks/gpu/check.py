"""`python -m benchmarks.gpu.check --pass A [--out DIR] [--again RESULT.json]`: run the steps on this machine's card.

After every line that a step prints, the result file is written anew, so a cut loses nothing; a step that fails or is
too slow does not stop the next. With --again, only the steps of an earlier result that did not pass run, and what they
say replaces what was there. Steps of one group run side by side; groups run one after the other, and what is timed is
a group of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from benchmarks.gpu.say import MARK, PRETENDED

ROOT = Path(__file__).resolve().parents[2]


class Step(NamedTuple):
    """A program, its limit, and whether it is pytest, whose tests are the figures then."""

    name: str
    command: list[str]
    limit_s: float
    is_pytest: bool = False


def module(name: str, limit_s: float, *arguments: str) -> Step:
    """A step that is a file beside this one."""
    title = " ".join([name, *arguments])
    return Step(title, [sys.executable, "-m", f"benchmarks.gpu.{name}", *arguments], limit_s)


def tests(name: str, path: str, limit_s: float, *arguments: str) -> Step:
    """A step that is some of the package's tests."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path, *arguments]
    return Step(name, command, limit_s, is_pytest=True)


TRAIN = "tests/train/test_gpu.py"
PASSES: dict[str, list[list[Step]]] = {
    "A": [
        [module("facts", 90)],
        [
            tests("backend", "tests/mpi/test_gpu.py", 100),
            tests("one rank", TRAIN, 150, "-k", "one_gpu or cpu or class_weights"),
            tests("compiled and fp8", TRAIN, 150, "-k", "compiled or fp8"),
            tests("two ranks", TRAIN, 150, "-k", "two_ranks_divide"),
            tests("two ranks in 16 bits", TRAIN, 150, "-k", "two_ranks_in"),
            tests("resume", TRAIN, 150, "-k", "warned"),
            module("memory", 120),
        ],
        [module("clock", 60)],
        [module("overlap", 100)],
        [module("energy", 90)],
        [module("staging", 90)],
    ],
    "B": [
        [module("probe", 60)],
        [module("speed", 120)],
        [module("speed", 90, "compiled")],
        [module("planner", 240)],
        [module("inference", 90)],
    ],
}


class Result:
    """The result file: facts, then every figure by its step."""

    def __init__(self, path: Path, earlier: dict[str, Any]) -> None:
        self.path = path
        self.content: dict[str, Any] = {"format": 1, "pretended": PRETENDED, "facts": {}, "steps": {}} | earlier
        self._lock = threading.Lock()

    def begin(self, step: Step) -> dict[str, Any]:
        """A new entry, in place of an earlier one."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"began_utc": now, "figures": [], "ended": "cut", "wall_s": None}
        with self._lock:
            self.content["steps"][step.name] = entry
        self.write()
        return entry

    def write(self) -> None:
        """The whole file by one rename."""
        with self._lock:
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.content, indent=1) + "\n")
            part.replace(self.path)

    def to_run(self, step: Step, again: bool) -> bool:
        """All steps, or those that did not pass before."""
        entry = self.content["steps"].get(step.name)
        return not again or entry is None or not passed(entry)


def passed(entry: dict[str, Any]) -> bool:
    """Whether the step ended well and every figure with a limit kept it."""
    return entry["ended"] == "0" and all(each["passed"] is not False for each in entry["figures"])


def run(step: Step, result: Result, out: Path, environment: dict[str, str]) -> None:
    """One step, to its end or its limit; what it printed is in the log."""
    entry, began = result.begin(step), time.monotonic()
    report = out / f"{step.name.replace(' ', '-')}.xml"
    command = [*step.command, f"--junitxml={report}"] if step.is_pytest else step.command
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    )  # fmt: skip
    late = threading.Timer(step.limit_s * (4 if PRETENDED else 1), lambda: os.killpg(process.pid, signal.SIGKILL))
    late.start()
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if line.startswith(MARK):
            told = json.loads(line[len(MARK) :])
            if step.name == "facts":
                result.content["facts"][told["name"]] = told["value"]
            entry["figures"].append(told)
            entry["wall_s"] = round(time.monotonic() - began, 1)
            result.write()
    code = process.wait()
    late.cancel()
    entry["wall_s"] = round(time.monotonic() - began, 1)
    entry["ended"] = f"stopped after {step.limit_s:g} s" if code == -signal.SIGKILL else str(code)
    if step.is_pytest:
        entry["figures"] = from_pytest(report)
    result.write()
    with (out / "gpu-check.log").open("a") as log:
        log.write(f"\n===== {step.name}: {entry['ended']}, {entry['wall_s']} s\n")
        log.writelines(lines[-400:])


def from_pytest(report: Path) -> list[dict[str, Any]]:
    """The tests of a JUnit file as figures; a skipped one only informs."""
    figures = []
    try:
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return []
    for each in cases:
        failed = each.find("failure") if each.find("failure") is not None else each.find("error")
        skipped = each.find("skipped")
        value = "passed"
        if failed is not None:
            value = (failed.get("message") or "failed")[:400]
        elif skipped is not None:
            value = f"skipped: {skipped.get('message')}"
        verdict = None if skipped is not None else failed is None
        figures.append({"name": each.get("name"), "value": value, "unit": "", "wanted": {}, "passed": verdict})
    report.unlink()
    return figures


def card() -> str:
    """The card's name for the file's."""
    if PRETENDED:
        return "pretended"
    import pynvml

    pynvml.nvmlInit()
    name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    return str(name).lower().replace(" ", "-")


def table(content: dict[str, Any]) -> str:
    """Pass, fail or figure, a line each."""
    lines = []
    for name, entry in content["steps"].items():
        lines.append(f"{name}: {'passed' if passed(entry) else 'FAILED'} ({entry['ended']}, {entry['wall_s']} s)")
        for each in entry["figures"]:
            verdict = {True: "ok", False: "FAIL", None: ""}[each["passed"]]
            value = f"{each['value']:.6g}" if isinstance(each["value"], float) else str(each["value"])
            bounds = [f"{word} {each['wanted'][key]:g}" for key, word in (("low", ">="), ("high", "<="))
                      if each["wanted"].get(key) is not None]  # fmt: skip
            wanted = f" (wanted {', '.join(bounds)})" if bounds else ""
            lines.append(f"  {verdict:4} {each['name']}: {value[:160]} {each['unit']}{wanted}")
    return "\n".join(lines)


def main() -> int:
    """Run what is asked for; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pass", dest="which", choices=[*PASSES, "AB"], default="AB")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--again", type=Path, help="an earlier result: run only what did not pass")
    parser.add_argument("--only", default="", help="comma-separated names of steps")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(options.again.read_text()) if options.again else {}
    result = Result(options.out / f"gpu-{card()}-{datetime.now(UTC).date()}.json", earlier)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "PYTHONUNBUFFERED": "1",
        "HPC_ACCEL_GPU_OUT": str(options.out),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_btl": "self,sm",
    }
    only = [name for name in options.only.split(",") if name]
    for group in [group for name in options.which for group in PASSES[name]]:
        chosen = [s for s in group if result.to_run(s, options.again is not None) and (not only or s.name in only)]
        threads = [threading.Thread(target=run, args=(step, result, options.out, environment)) for step in chosen]
        for thread in threads:
            thread.start()
            if PRETENDED:  # a laptop's two cores have enough with one
                thread.join()
        for thread in threads:
            thread.join()
    sys.stdout.write(table(result.content) + "\n")
    return 0 if all(passed(entry) for entry in result.content["steps"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
