"""A lane: the collectives of one group, executed one after the other in the order they were called.

Blocking MPI collectives, because non-blocking ones hardly progress by themselves. Three places execute them:

    caller waits at once, lane idle   -> the calling thread, no hand-over     (run_inline)
    caller goes on                    -> the lane's own thread                (enqueue)
    caller waits for a queued one     -> the waiting thread, if the lane's own has not begun yet   (help)

One lane per group: groups may be entered in different order on different ranks without deadlock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import Protocol

from hpc_accel.mpi import watchdog

log = logging.getLogger(__name__)


class Job(Protocol):
    """What a lane executes."""

    op: str
    done: bool

    def execute(self) -> None:
        """Communicate; must not raise."""

    def publish(self) -> None:
        """Tell those who wait; the lane is free again by then."""


class Lane:
    """Executes jobs in order. Any thread may call it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._queue: deque[Job] = deque()
        self._busy = False
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def enter(self) -> bool:
        """Take the lane for the calling thread if it is idle; then `leave` must follow."""
        with self._lock:
            if self._busy or self._queue:
                return False
            self._busy = True
            return True

    def leave(self) -> None:
        """Free the lane, and wake its thread if something came meanwhile."""
        with self._lock:
            self._busy = False
            more = bool(self._queue)
        if more:
            self._tokens.put(True)

    def run_inline(self, job: Job) -> bool:
        """Execute in the calling thread if nothing is before it; False if something is."""
        if not self.enter():
            return False
        self._perform(job)
        return True

    def enqueue(self, job: Job) -> None:
        """Leave the job to the lane's thread."""
        with self._lock:
            self._queue.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=f"mpi4py:{self.name}", daemon=True)
                self._thread.start()
        self._tokens.put(True)

    def help(self, job: Job) -> None:
        """Execute queued jobs up to `job` here, for as long as no other thread is executing one."""
        while not job.done:
            first = self._take()
            if first is None:
                return
            self._perform(first)

    def is_mine(self) -> bool:
        """Whether the caller is this lane's own thread, in a callback of a future it has just fulfilled."""
        return threading.current_thread() is self._thread

    def idle(self) -> bool:
        with self._lock:
            return not (self._busy or self._queue)

    def close(self, timeout_s: float) -> bool:
        """End the thread after the queue has been worked off; False if it is stuck in MPI."""
        deadline = time.monotonic() + timeout_s
        while not self.idle():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        self._tokens.put(False)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, deadline - time.monotonic()))
            return not self._thread.is_alive()
        return True

    def _take(self) -> Job | None:
        with self._lock:
            if self._busy or not self._queue:
                return None
            self._busy = True
            return self._queue.popleft()

    def _perform(self, job: Job) -> None:
        job.execute()
        # Free before published: whoever is told may start the next collective from here.
        self.leave()
        try:
            job.publish()
        except BaseException:
            # Without this thread the group's later collectives would hang, and nobody else hears of the error.
            log.exception("%s: %s could not be published", self.name, job.op)
            watchdog.end_job(f"a fault in publishing {job.op}")

    def _serve(self) -> None:
        while self._tokens.get():
            job = self._take()
            if job is not None:
                self._perform(job)
