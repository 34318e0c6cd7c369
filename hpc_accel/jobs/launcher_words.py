"""What a launcher says on standard error: passed on as it comes, and read for the end of a rank.

Open MPI's launcher now and then tells that a rank has ended the job, and then waits for ever for a daemon of another
node: the job would keep its nodes until its time limit.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading

RANK_ENDED = re.compile(
    rb"MPI_ABORT was invoked on rank|BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES"
    rb"|prterun\s+(?:has exited due to|noticed|detected that one or more processes)"
)
"""Sentences of the launchers' own: what ranks print comes by the same way, and may speak of exit codes, too."""
LOST_NODE = re.compile(
    rb"lost communication with a remote daemon.*?Remote daemon:[^\n]* on node (\S+)|srun: error: Node failure on (\S+)",
    re.DOTALL,
)
"""Open MPI's launcher ends with code 0 after it."""
CODE = re.compile(rb"(?:Errorcode|Exit code|EXIT CODE):\s+(\d+)")
LINGERS_S = 20.0
"""After a rank's end was told, for the launcher to end the others and itself."""
INSISTS_S = 2.0
"""Between asking it to end, asking again (it wants to be asked twice), and killing it."""
KEPT_BYTES = 4096


class LauncherWords:
    """Reads the standard error of `process`, a pipe, until its end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._recent = b""
        self._timer: threading.Timer | None = None
        self._was_ended = False
        self.code = 1
        """What the rank ended with."""
        self.lost_node = ""
        """The node that the launcher says it lost."""
        self._reader = threading.Thread(target=self._read, name="hpc_accel:launcher", daemon=True)
        self._reader.start()

    def finish(self) -> bool:
        """The launcher has ended: whether it had to be ended here. Processes it left may hold the pipe open."""
        self._reader.join(1.0)
        if self._timer is not None:
            self._timer.cancel()
        return self._was_ended

    def _read(self) -> None:
        assert self._process.stderr is not None
        pipe = self._process.stderr.fileno()
        while chunk := os.read(pipe, 65536):
            with contextlib.suppress(OSError):  # nobody reads: the launcher must not wait for that
                sys.stderr.buffer.write(chunk)
                sys.stderr.flush()
            self._recent = (self._recent + chunk)[-KEPT_BYTES:]
            if self._timer is None and RANK_ENDED.search(self._recent):
                self._timer = threading.Timer(LINGERS_S, self._end)
                self._timer.daemon = True
                self._timer.start()
            if lost := LOST_NODE.search(self._recent):
                self.lost_node = (lost.group(1) or lost.group(2)).decode(errors="replace")
            if self._timer is not None and (found := CODE.search(self._recent)):
                self.code = int(found.group(1)) or 1

    def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            self._was_ended = True
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(INSISTS_S)
