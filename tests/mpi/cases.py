"""Many cases, one launch: starting ranks costs seconds, a case milliseconds.

A module of cases registers functions with @case and ends with `main()`; under mpirun every rank runs all of them
in order. Rank 0 prints one JSON line per case when all ranks have finished it. In pytest the same module gives
the names, and `Launch` runs it once per rank count and hands each test its line.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from tests.mpirun import mpirun

CASES: dict[str, Callable[[], None]] = {}
MARK = "CASE "


def case(function: Callable[[], None]) -> Callable[[], None]:
    """Register a case. It runs on all ranks, with the default group up; it raises to fail."""
    CASES[function.__name__] = function
    return function


def cases_of(module: ModuleType) -> list[str]:
    """The names of a module's cases, in order."""
    return [name for name, function in CASES.items() if function.__module__ == module.__name__]


def main() -> None:
    """Run all cases, or those named on the command line, on this rank."""
    import hpc_accel.mpi
    from hpc_accel.mpi.launch import mpi

    place = hpc_accel.mpi.init()
    comm = mpi().COMM_WORLD
    for name in sys.argv[1:] or [n for n, f in CASES.items() if f.__module__ == "__main__"]:
        error = ""
        try:
            CASES[name]()
        except Exception:
            error = f"rank {place.rank}:\n{traceback.format_exc()}"
        errors = [text for text in comm.allgather(error) if text]
        if place.rank == 0:
            print(MARK + json.dumps({"name": name, "errors": errors}), flush=True)
    hpc_accel.mpi.shutdown()


class Launch:
    """Runs a module of cases once per rank count, when the first test asks."""

    def __init__(self, script: Path, timeout_s: float, **env: str) -> None:
        self.script, self.timeout_s, self.env = script, timeout_s, env
        self._results: dict[int, dict[str, list[str]]] = {}
        self._output: dict[int, str] = {}

    def check(self, n: int, name: str) -> None:
        """Fail with the ranks' tracebacks, or with the whole output if the case was never finished."""
        if n not in self._results:
            result = mpirun(n, self.script, self.timeout_s, **self.env)
            self._output[n] = f"exit {result.returncode}\n{result.stdout}"
            lines = [json.loads(x[len(MARK) :]) for x in result.stdout.splitlines() if x.startswith(MARK)]
            self._results[n] = {line["name"]: line["errors"] for line in lines}
        errors = self._results[n].get(name)
        assert errors is not None, f"{name} did not finish on {n} ranks\n{self._output[n][-4000:]}"
        assert not errors, "\n".join(errors)
        if name == list(self._results[n])[-1]:
            assert self._output[n].startswith("exit 0"), self._output[n][-4000:]
