"""Saving beside training: a thread of each rank writes its files, ranks agree at the ends of steps, rank 0 publishes.

    begin      the training thread hands over copies of the state
    writing    each rank's thread writes, hashes and forces its files to disk
    publishing once all have, rank 0's thread writes the manifest and gives the checkpoint its name

Threads never call MPI: it need not allow that. Training threads reduce "am I done" without waiting, in a group of
their own: what is sent at one look is read at the next. Only then a checkpoint counts, on all ranks or on none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError

from hpc_accel.train.checkpoint_directory import CheckpointDirectory, Files


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A save that has come to its end: why it failed, "" if it did not, and how long it took from begin to name."""

    step: int
    reason: str
    took_ms: float


class Saving:
    """One save at a time. Every method is collective over `comm`; `facts` and `keep` are for its manifest."""

    def __init__(self, directory: CheckpointDirectory, comm: Any, facts: dict[str, Any], keep: int) -> None:
        self.directory, self.comm, self.facts, self.keep = directory, comm, facts, keep
        self.rank: int = comm.Get_rank()
        self._agreement = _Agreement(comm)
        self._under_way: _UnderWay | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a save has begun and its end is not known yet."""
        return self._under_way is not None

    def begin(self, step: int, write: Callable[[], Files]) -> Outcome | None:
        """Start a save; `write` writes this rank's files, in a thread. What came of it, if it cannot even begin."""
        assert self._under_way is None
        began = time.perf_counter()
        reason = self._on_root(lambda: self.directory.make_partial(step))
        if reason:
            return Outcome(step=step, reason=reason, took_ms=(time.perf_counter() - began) * 1e3)
        self._under_way = _UnderWay(step, began, _Work(write))
        return None

    def look(self) -> Outcome | None:
        """Whether the save has ended; waits for nobody."""
        save = self._under_way
        if save is None or not self._agreement.look(save.work.is_done):
            return None
        return self._go_on(save)

    def finish(self) -> Outcome | None:
        """Wait for the save that is under way, and say what came of it; None where there is none."""
        outcome = None
        while (save := self._under_way) is not None:
            save.work.wait()
            self._agreement.complete()
            outcome = self._go_on(save)
        return outcome

    def _go_on(self, save: _UnderWay) -> Outcome | None:
        """All ranks' threads are done: the next phase, or the end."""
        problem = save.work.problem
        if save.is_published:
            return self._end(save, str(self.comm.bcast(f"rank 0: {problem}" if problem else "")))
        told = f"rank {self.rank}: {problem}" if problem else ""
        gathered: list[tuple[str, Files]] = self.comm.allgather((told, save.work.result or {}))
        if reason := next((each for each, _ in gathered if each), ""):
            return self._end(save, reason)
        files = {name: facts for _, each in gathered for name, facts in each.items()}
        save.is_published = True
        save.work = _Work(lambda: self._publish(save.step, files) if self.rank == 0 else {})
        return None

    def _publish(self, step: int, files: Files) -> Files:
        self.directory.publish(step, files, self.facts, keep=self.keep)
        return files

    def _end(self, save: _UnderWay, reason: str) -> Outcome:
        self._under_way = None
        if reason:
            self._on_root(lambda: self.directory.drop_partial(save.step))
        return Outcome(step=save.step, reason=reason, took_ms=(time.perf_counter() - save.began) * 1e3)

    def _on_root(self, action: Callable[[], None]) -> str:
        """Rank 0 acts; all ranks learn why it failed, or ""."""
        reason = ""
        if self.rank == 0:
            try:
                action()
            except OSError as error:
                reason = f"rank 0: {error}"
        return str(self.comm.bcast(reason))


class _UnderWay:
    def __init__(self, step: int, began: float, work: _Work) -> None:
        self.step, self.began, self.work = step, began, work
        self.is_published = False


class _Work:
    """Something that a thread does. `problem` is why the disk refused it; another error is raised where it is read."""

    def __init__(self, action: Callable[[], Files]) -> None:
        self._action = action
        self.result: Files | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="hpc_accel:checkpoint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._action()
        except Exception as error:
            self._error = error

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join()

    @property
    def problem(self) -> str:
        if self._error is not None and not isinstance(self._error, OSError | SafetensorError | ValueError):
            raise self._error
        return str(self._error) if self._error is not None else ""


class _Agreement:
    """Whether all ranks are done with their part, learnt without waiting."""

    def __init__(self, comm: Any) -> None:
        import numpy as np

        self._comm = comm.Dup() if comm.Get_size() > 1 else None
        self._mine, self._all = np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.int32)
        self._request: Any = None

    def look(self, is_done: bool) -> bool:
        """True on all ranks at the same look, at most two after the last rank was done."""
        if self._comm is None:
            return is_done
        if self._request is not None:
            self._request.Wait()  # of the look before, so it has arrived
            self._request = None
            if self._all[0]:
                return True
        from mpi4py import MPI

        self._mine[0] = is_done
        self._request = self._comm.Iallreduce(self._mine, self._all, MPI.MIN)
        return False

    def complete(self) -> None:
        """Nothing is under way any more."""
        if self._request is not None:
            self._request.Wait()
            self._request = None
