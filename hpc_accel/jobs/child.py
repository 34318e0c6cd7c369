"""The launcher as a child process: signals passed on to it, its end awaited, whatever it leaves behind killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.launcher_words import LauncherWords
from hpc_accel.jobs.wake import Awake

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE_S = 2.0
"""Between asking what is left to end and ending it."""
GIVE_UP_S = 10.0
"""A process that outlives SIGKILL so long waits for a device or a file system; nothing more can be done here."""


class Child:
    """Runs one command after another, and passes on the signals that this process gets meanwhile.

    USR1 is a warning (time is nearly up), TERM and INT mean stop. `on_warning` decides whether a warning is passed on.
    With `saves_within_s` the first stop is passed on as a warning, and becomes a stop after so long.
    """

    def __init__(
        self,
        on_warning: Callable[[], bool] = lambda: True,
        *,
        warn_as: signal.Signals = signal.SIGUSR1,
        saves_within_s: float = 0.0,
    ) -> None:
        self.asked_to_stop = ""
        """The last signal's name without SIG, empty when there was none."""
        self.started_unix_s = time.time()
        """When the last command was started."""
        self.lost_node = ""
        """The node that the last launcher says it lost."""
        self._on_warning = on_warning
        self._saves_within_s = saves_within_s
        self._stop_at_s: float | None = None
        self._warn_as = warn_as
        self._process: subprocess.Popen[bytes] | None = None
        # Processes whose parent dies become this one's children instead of init's, so that they are found below.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in (signal.SIGUSR1, signal.SIGALRM):
            signal.signal(number, self._warn)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)

    def run(
        self, command: Sequence[str], environ: MutableMapping[str, str], *, is_launcher: bool = False, **options: Any
    ) -> int:
        """The command's exit code, 128 + n when signal n ended it. Raises ConfigError when there is no such program.

        In a process group of its own: Ctrl-C in a terminal reaches this process, which passes it on. What a launcher
        says is read on its way: one that told of a rank's end and stays all the same is ended, with that rank's code.
        """
        self.started_unix_s = time.time()
        options |= {"stderr": subprocess.PIPE} if is_launcher else {}
        try:
            self._process = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                process_group=0,
                preexec_fn=partial(at_parents_end, signal.SIGTERM),  # noqa: PLW1509  # other threads wait in C and hold no lock
                **options,
            )
        except OSError as error:
            raise ConfigError(
                f"{command[0]}: {error.strerror}",
                "a script starts its ranks by a launcher on PATH",
                "write the site's modules or environment into its site file",
            ) from error
        if self.asked_to_stop in {"TERM", "INT"}:  # it came before there was somebody to tell
            self._pass_on(signal.SIGTERM)
        told = LauncherWords(self._process) if is_launcher else None
        awake = Awake(self._process.pid)
        code = self._process.wait()
        awake.close()
        self._process = None
        signal.alarm(0)
        end_what_is_left()
        if told is not None:
            was_ended, self.lost_node = told.finish(), told.lost_node
            if was_ended:
                return told.code
        return code if code >= 0 else 128 - code

    def warn_in(self, seconds: float, *, stop_in_s: float | None = None) -> None:
        """Warn as if USR1 had come, `seconds` from now; end the command after `stop_in_s`."""
        signal.alarm(max(1, int(seconds)))
        self._stop_at_s = None if stop_in_s is None else time.monotonic() + stop_in_s

    def _warn(self, number: int, _frame: FrameType | None) -> None:
        self.asked_to_stop = self._warn_as.name.removeprefix("SIG")
        if self._stop_at_s is not None and number == signal.SIGALRM:
            left_s = self._stop_at_s - time.monotonic()
            if left_s <= 0:
                self._pass_on(signal.SIGTERM)
                return
            signal.alarm(max(1, round(left_s)))
        if self._on_warning():
            self._pass_on(self._warn_as)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        is_first, self.asked_to_stop = self.asked_to_stop != "TERM", "TERM"
        if is_first and self._saves_within_s and self._process is not None and self._on_warning():
            # What was trained since the last checkpoint is worth more than the moment that saving it takes.
            self._pass_on(self._warn_as)
            later = threading.Timer(self._saves_within_s, self._pass_on, [signal.SIGTERM])
            later.daemon = True
            later.start()
            return
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None:
            process.send_signal(number)


def at_parents_end(number: signal.Signals) -> None:
    """Between fork and exec: the new program gets this signal when its parent dies, by SIGKILL for example."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def end_what_is_left() -> None:
    """End the ranks of a launcher that died: first asked, then killed. They are children of this process by now."""
    began_s = time.monotonic()
    while _reap() and (waited_s := time.monotonic() - began_s) < GIVE_UP_S:
        number = signal.SIGTERM if waited_s < GRACE_S else signal.SIGKILL
        for pid in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.05)


def children() -> list[int]:
    """Process ids of this process's children."""
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += map(int, path.read_text().split())
    return found


def _reap() -> bool:
    """Take leave of children that have ended; whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
