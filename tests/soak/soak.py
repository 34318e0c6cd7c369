"""Runs that are killed, frozen and warned again and again end with the weights of a run that nothing disturbed.

    python -m tests.soak.soak [--interruptions 54] [--seed N] [--json FILE]

Each layout is trained once undisturbed and once with interruptions at random moments: SIGKILL of a rank, of the
launcher or of the script, SIGSTOP of a rank, SIGUSR1 to the script; half of them as soon as something moves in the
directory of checkpoints, so while one is written, renamed or removed. After each, the script must have ended with a
code of the table in docs/reliability.md, no process may be left, and the newest checkpoint may not be older than
before. At the end weights are compared bit by bit, and so are the losses of all steps.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from hpc_accel.files import read_json
from hpc_accel.measure import provenance
from tests.faults.started import Started, gone, prepare, ranks_of, start

HERE = Path(__file__).parent
STEPS = 1000
HANG_S = 6
LAYOUTS: dict[str, dict[str, Any]] = {
    "dp": {"dp": 2},
    "pp": {"pp": 2, "accumulation_steps": 4},
    "tp": {"tp": 2},
    "shard full": {"dp": 2, "shard": "full"},
    "shard optimizer": {"dp": 2, "shard": "optimizer"},
    "dp x pp": {"dp": 2, "pp": 2, "accumulation_steps": 2},
}
CODES = {"kill": {137, 143, 75, -signal.SIGKILL}, "stop": {75}, "warn": {75}}
"""Exit codes that each kind may end with; 0 is right where the run had ended before."""


PROVENANCE = ("hpc_accel", "torch", "python", "mpi_library", "cpu", "git")


@dataclass
class Outcome:
    """What was counted over all layouts."""

    interruptions: Counter[str] = field(default_factory=Counter)
    in_saving: int = 0
    starts: int = 0
    problems: list[str] = field(default_factory=list)
    hangs: int = 0
    lost_checkpoints: int = 0
    orphans: int = 0
    wrong_codes: int = 0
    differing_weights: int = 0
    differing_losses: int = 0

    def count(self, name: str, told: str) -> None:
        setattr(self, name, getattr(self, name) + 1)
        self.problems.append(f"{name}: {told}")
        say(self.problems[-1])


def say(text: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")
    sys.stderr.flush()


def made(directory: Path, layout: dict[str, Any]) -> Path:
    workload = {"entry": "tests.soak.model_of_soak:build", "global_batch_size": 32}
    measure = {"steps": STEPS, "metric_samples": 64, "hang_after_s": HANG_S}
    return prepare(directory, layout, workload, checkpoint={"every_steps": 20}, measure=measure)


def begun(directory: Path) -> Started:
    weights = directory.parent / "weights"
    weights.mkdir(exist_ok=True)
    (directory / ".ready").unlink(missing_ok=True)  # of a start that was killed
    return start(directory, SOAK_WEIGHTS=str(weights))


def weights_of(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((directory.parent / "weights").iterdir())}


def losses_of(directory: Path) -> dict[tuple[int, int], float]:
    """By step and rank, where a loss is computed."""
    rows = pl.read_parquet(directory / "steps.parquet").select("step", "rank", "loss").drop_nulls()
    return {(step, rank): loss for step, rank, loss in rows.iter_rows()}


def newest(directory: Path) -> int:
    """The step of the newest whole checkpoint, 0 without one."""
    latest = directory / "checkpoints" / "latest"
    name = str(latest.readlink()) if latest.is_symlink() else latest.read_text() if latest.is_file() else ""
    return int(name.strip().rpartition("-")[2] or 0)


def interrupt(started: Started, draw: random.Random, outcome: Outcome) -> tuple[str, int]:
    """Hurt the run under way at a random moment; the kind, and the newest checkpoint just before."""
    kind = draw.choices(["kill", "stop", "warn"], [5, 2, 3])[0]
    while not (started.directory / ".ready").exists() and started.process.poll() is None:
        time.sleep(0.02)
    time.sleep(draw.uniform(0.0, 0.5))
    if draw.random() < 0.5 and _moves(started.directory / "checkpoints", 2.0):
        outcome.in_saving += 1
        time.sleep(draw.uniform(0.0, 0.02))
    before = newest(started.directory)
    pids = [pid for pid in ranks_of(started.directory) if pid != started.process.pid]
    ranks = [pid for pid in pids if _is_rank(pid)]
    target = started.process.pid
    if kind == "stop" or (kind == "kill" and draw.random() < 0.6):
        target = draw.choice(ranks or [target])
    elif kind == "kill" and draw.random() < 0.5:
        target = draw.choice([pid for pid in pids if pid not in ranks] or [target])
    try:
        os.kill(target, {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "warn": signal.SIGUSR1}[kind])
    except ProcessLookupError:
        return "late", before
    return kind, before


def _is_rank(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if Path(f"/proc/{pid}").exists() else []
    return (
        b"train" in words
        and not any(words[0].endswith(name) for name in (b"mpirun", b"prterun"))
        and b"--" not in words
    )


def _moves(directory: Path, within_s: float) -> bool:
    """Whether something in `directory` appears or goes in time."""
    end, before = time.monotonic() + within_s, _names(directory)
    while time.monotonic() < end:
        if _names(directory) != before:
            return True
        time.sleep(0.0005)
    return False


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("*")}


def disturbed(directory: Path, layout: str, wanted: int, draw: random.Random, outcome: Outcome) -> bool:
    """Start the run until it is done, and hurt it `wanted` times on the way; whether it was done."""
    hurt = 0
    for _ in range(4 * wanted + 4):
        started = begun(directory)
        outcome.starts += 1
        kind, before = interrupt(started, draw, outcome) if hurt < wanted else ("none", 0)
        told = f"{layout}, start {outcome.starts}, {kind} after checkpoint {before}"
        pids = ranks_of(directory)
        try:
            code = started.process.wait(60 if kind != "none" else 300)
        except subprocess.TimeoutExpired:
            outcome.count("hangs", told)
            for pid in [*pids, *ranks_of(directory)]:
                _kill(pid)
            code = started.process.wait(30)
        if not gone(pids, 15):
            outcome.count("orphans", told)
            for pid in pids:
                _kill(pid)
        say(f"{told}: exit code {code}, checkpoint {newest(directory)}")
        if code == 0 and read_json(directory / "summary.json").get("status") == "completed":
            return True
        hurt += kind in CODES
        outcome.interruptions[kind] += 1
        if code not in CODES.get(kind, {75}):
            outcome.count("wrong_codes", f"{told}: {code}: {started.log()[-1500:]}")
        if newest(directory) < before:
            outcome.count("lost_checkpoints", f"{told}: {newest(directory)}")
    return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def tried(root: Path, name: str, wanted: int, draw: random.Random, outcome: Outcome) -> dict[str, Any]:
    """One layout, undisturbed and disturbed."""
    place = root / name.replace(" ", "-")
    whole = made(place / "whole", LAYOUTS[name])
    code = begun(whole).wait(300)
    if code:
        raise SystemExit(f"{name}: undisturbed it ends with {code}: {(whole / 'told.txt').read_text()[-3000:]}")
    before, attempts = sum(outcome.interruptions.values()), []
    while (hurt := sum(outcome.interruptions.values()) - before) < wanted:
        directory = made(place / f"hurt-{len(attempts)}", LAYOUTS[name])
        if not disturbed(directory, name, wanted - hurt, draw, outcome):
            outcome.count("hangs", f"{name}: never done")
            break
        compare(name, whole, directory, outcome)
        attempts.append(read_json(directory / "summary.json")["checkpoints"]["attempts"])
    return {
        "layout": name,
        "interruptions": sum(outcome.interruptions.values()) - before,
        "attempts_of_each_run": attempts,
        "num_weight_digests": len(weights_of(whole)),
        "num_losses": len(losses_of(whole)),
    }


def compare(name: str, whole: Path, hurt: Path, outcome: Outcome) -> None:
    """Count what differs between two runs that are done."""
    pairs: dict[str, Callable[[Path], dict[Any, Any]]] = {"weights": weights_of, "losses": losses_of}
    for what, read in pairs.items():
        expected, found = read(whole), read(hurt)
        if not expected:
            outcome.count(f"differing_{what}", f"{name}: there is nothing to compare")
        differing = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
        if differing:
            outcome.count(f"differing_{what}", f"{name}: {len(differing)} of {len(expected)}, first {min(differing)}")


def main() -> None:
    """Try all layouts and write what was counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interruptions", type=int, default=54)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--layouts", nargs="*", default=list(LAYOUTS), choices=list(LAYOUTS))
    default = HERE.parents[1] / "benchmarks" / "results" / f"soak-{datetime.now(UTC):%Y-%m-%d}.json"
    parser.add_argument("--json", type=Path, default=default)
    arguments = parser.parse_args()
    outcome, draw, began = Outcome(), random.Random(arguments.seed), time.monotonic()
    each = -(-arguments.interruptions // len(arguments.layouts))
    facts = provenance.collect()
    layouts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as root:
        for name in arguments.layouts:
            layouts.append(tried(Path(root), name, each, draw, outcome))
            content = {
                "date": f"{datetime.now(UTC):%F %T}",
                "seed": arguments.seed,
                "duration_s": round(time.monotonic() - began),
                "num_interruptions": sum(outcome.interruptions.values()),
                **vars(outcome),
                "layouts": layouts,
                "layouts_left": arguments.layouts[len(layouts) :],
                "provenance": {key: facts.get(key) for key in PROVENANCE},
            }
            arguments.json.write_text(json.dumps(content, indent=1, default=str) + "\n")
    say(f"{sum(outcome.interruptions.values())} interruptions, {len(outcome.problems)} problems: {arguments.json}")
    sys.exit(bool(outcome.problems))


if __name__ == "__main__":
    main()
