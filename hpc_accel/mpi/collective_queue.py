"""A queue of collectives: those of one group, executed one after the other in the order they were called.

Blocking MPI collectives, because non-blocking ones hardly progress by themselves. Three places execute them:

    caller waits at once, queue idle  -> the calling thread, no hand-over     (execute_here)
    caller goes on                    -> the queue's own thread               (enqueue)
    caller waits for a queued one     -> the waiting thread, if the queue's own has not begun yet   (execute_up_to)

One queue per group: groups may be entered in different order on different ranks without deadlock.
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


class QueuedCollective(Protocol):
    """What a queue executes: a CollectiveWork."""

    op: str
    done: bool

    def communicate_watched(self) -> None:
        """Communicate; must not raise."""

    def publish(self) -> None:
        """Tell those who wait; the queue is free again by then."""


class CollectiveQueue:
    """Executes collectives in order. Any thread may call it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._queue: deque[QueuedCollective] = deque()
        self._busy = False
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def enter_if_idle(self) -> bool:
        """Take the queue for the calling thread if it is idle; then `leave` must follow."""
        with self._lock:
            if self._busy or self._queue:
                return False
            self._busy = True
            return True

    def leave(self) -> None:
        """Free the queue, and wake its thread if something came meanwhile."""
        with self._lock:
            self._busy = False
            more = bool(self._queue)
        if more:
            self._tokens.put(True)

    def execute_here(self, collective: QueuedCollective) -> bool:
        """Execute in the calling thread if nothing is before it; False if something is."""
        if not self.enter_if_idle():
            return False
        self._execute_and_publish(collective)
        return True

    def enqueue(self, collective: QueuedCollective) -> None:
        """Leave it to the queue's thread."""
        with self._lock:
            self._queue.append(collective)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=f"mpi4py:{self.name}", daemon=True)
                self._thread.start()
        self._tokens.put(True)

    def execute_up_to(self, collective: QueuedCollective) -> None:
        """Execute what is queued up to `collective` here, for as long as no other thread is executing anything."""
        while not collective.done:
            first = self._take_first()
            if first is None:
                return
            self._execute_and_publish(first)

    def is_own_thread(self) -> bool:
        """Whether the caller is this queue's own thread, in a callback of a future it has just fulfilled."""
        return threading.current_thread() is self._thread

    def is_idle(self) -> bool:
        with self._lock:
            return not (self._busy or self._queue)

    def close(self, timeout_s: float) -> bool:
        """End the thread after the queue has been worked off; False if it is stuck in MPI."""
        deadline = time.monotonic() + timeout_s
        while not self.is_idle():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        self._tokens.put(False)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, deadline - time.monotonic()))
            return not self._thread.is_alive()
        return True

    def _take_first(self) -> QueuedCollective | None:
        with self._lock:
            if self._busy or not self._queue:
                return None
            self._busy = True
            return self._queue.popleft()

    def _execute_and_publish(self, collective: QueuedCollective) -> None:
        collective.communicate_watched()
        # Free before published: whoever is told may start the next collective from here.
        self.leave()
        try:
            collective.publish()
        except BaseException:
            # Without this thread the group's later collectives would hang, and nobody else hears of the error.
            log.exception("%s: %s could not be published", self.name, collective.op)
            watchdog.end_job(f"a fault in publishing {collective.op}")

    def _serve(self) -> None:
        while self._tokens.get():
            first = self._take_first()
            if first is not None:
                self._execute_and_publish(first)
