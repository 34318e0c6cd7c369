"""PyTorch's own distributed suite on this backend and on gloo: whatever gloo passes on CPU must pass here.

    python -m tests.mpi.conformance --ranks 2 4 8            # all of it; exit code 1 if a case is missing
    python -m tests.mpi.conformance --ranks 2 --backends mpi4py --cases test_broadcast

What does not apply stands in conformance_excluded.txt with its reason, one per line.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

from tests.mpi.conformance_rank import MARK
from tests.mpirun import ENVIRONMENT, ROOT

HERE = Path(__file__).parent
SCRIPT = HERE / "conformance_rank.py"
EXCLUDED = HERE / "conformance_excluded.txt"
CASE_TIMEOUT_S = 120.0
NUM_LAST_LINES = 40
LAST_IN_ITS_LAUNCH = frozenset({"test_barrier_timeout_group"})
"""Leaves a rank in a barrier that nobody else will enter: the watchdog ends that job seconds later, by design."""
Outcomes = dict[str, tuple[str, str]]


def excluded() -> dict[str, str]:
    """Case -> reason."""
    lines = [line for line in EXCLUDED.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return dict(tuple(part.strip() for part in line.split(":", 1)) for line in lines)  # type: ignore[misc]


def all_cases() -> list[str]:
    """Every case of the suite in this torch, told by a process of its own: importing it sets up a lot."""
    code = (
        "import tempfile; from tests.mpi.conformance_rank import suite; "
        "base = suite(2, tempfile.gettempdir()).DistributedTest._DistTestBase; "
        "print('\\n'.join(n for n in dir(base) if n.startswith('test_')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, check=True
    )
    return [line for line in done.stdout.splitlines() if line.startswith("test_")]


def run(n: int, backend: str, names: list[str], deadline: float | None = None) -> Outcomes:
    """Outcome of each case. A case that fails or hangs ends its launch; the rest go on in a new one."""
    outcomes: Outcomes = {}
    left = list(names)
    idle_launches = 0
    while left and (deadline is None or time.monotonic() < deadline):
        current, last_words = _launch(n, backend, left, outcomes)
        if current is not None and current not in outcomes:
            outcomes[current] = ("failed", f"the launch ended in this case:\n{last_words}")
            print(f"  {backend} {n} {current}: ended the launch\n{last_words}", flush=True)
        before = len(left)
        left = [name for name in left if name not in outcomes]
        idle_launches = idle_launches + 1 if len(left) == before else 0
        if idle_launches == 2:
            outcomes.update(dict.fromkeys(left, ("failed", "the ranks did not start")))
            break
    return outcomes


def _launch(n: int, backend: str, names: list[str], outcomes: Outcomes) -> tuple[str | None, str]:
    """One mpirun over `names`; the case it was in when it ended, if any, and what was printed last."""
    launcher = Path(sys.executable).with_name("mpirun")
    command = [str(launcher), "-n", str(n), sys.executable, "-m", "mpi4py", str(SCRIPT), backend, *names]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, "GLOO_SOCKET_IFNAME": "lo", "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    assert process.stdout is not None
    reader = threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True)
    reader.start()
    current: str | None = None
    last: deque[str] = deque(maxlen=NUM_LAST_LINES)
    while True:
        try:
            line = lines.get(timeout=CASE_TIMEOUT_S)
        except queue.Empty:
            if current is not None:
                outcomes[current] = ("failed", f"hung for {CASE_TIMEOUT_S:.0f} s")
            break
        if line is None:
            break
        if not line.startswith(MARK):
            last.append(line)
            continue
        # Where two ranks fail at once, some launchers put both reports on one line: the first counts.
        fields, _ = json.JSONDecoder().raw_decode(line[len(MARK) :])
        if fields["outcome"] == "started":
            current = fields["name"]
        elif outcomes.get(fields["name"], ("", ""))[0] != "failed":
            outcomes[fields["name"]] = (fields["outcome"], fields.get("reason", ""))
            print(f"  {backend} {n} {fields['name']}: {fields['outcome']}", flush=True)
            current = None if fields["outcome"] != "failed" else current
            if backend == "mpi4py" and fields["name"] in LAST_IN_ITS_LAUNCH and fields["outcome"] == "passed":
                break
    _end(process)
    reader.join(10)
    return current, "".join(last)


def _pump(stream: object, lines: queue.Queue[str | None]) -> None:
    for line in stream:  # type: ignore[attr-defined]
        lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--backends", nargs="+", default=["gloo", "mpi4py"])
    parser.add_argument("--cases", nargs="+", help="only these")
    parser.add_argument("--json", type=Path, help="write all outcomes here")
    options = parser.parse_args()
    out = {key: reason for key, reason in excluded().items() if not options.cases}
    names = [name for name in options.cases or all_cases() if name not in out]
    document: dict[str, dict[str, Outcomes]] = {}
    missing = 0
    for n in options.ranks:
        results = {backend: run(n, backend, names) for backend in options.backends}
        document[str(n)] = results
        for backend, outcomes in results.items():
            counts = {kind: sum(o[0] == kind for o in outcomes.values()) for kind in ("passed", "skipped", "failed")}
            print(f"{n} ranks {backend}: {counts}", flush=True)
        mine = results.get("mpi4py", {})
        reference = results.get("gloo")
        for name, (outcome, reason) in mine.items():
            wanted = outcome == "failed" if reference is None else reference.get(name, ("", ""))[0] == "passed"
            if wanted and outcome != "passed":
                missing += 1
                print(f"MISSING {n} ranks {name}: {outcome}\n  {reason}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
