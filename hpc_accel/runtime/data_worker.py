"""Workers of a data loader end with the rank that they read for, and not before.

They are children of a fork server, not of the rank, and they inherit the pipe by which that server would learn of the
rank's end: when a rank is killed, nobody ends, and its launcher waits for their standard error for ever.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn


def end_with(rank_pid: int, _worker: int) -> None:
    """To be called in a worker, as torch's worker_init_fn: end it when process `rank_pid` has ended.

    In the user's code `os._exit` raises from now on: a rank that finds its worker gone cannot say for which sample.
    """
    leave = os._exit

    def refuse(status: int) -> NoReturn:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if threading.current_thread() is not threading.main_thread() or caller.startswith("multiprocessing"):
            leave(status)
        raise RuntimeError(f"os._exit({status}) in a data worker")

    os._exit = refuse
    threading.Thread(target=_wait, args=(rank_pid,), name="hpc_accel:rank", daemon=True).start()


def _wait(rank_pid: int) -> None:
    try:
        handle = os.pidfd_open(rank_pid)
        select.select([handle], [], [])
    except ProcessLookupError:
        pass  # it has ended already
    except OSError:  # a kernel before Linux 5.3
        while Path(f"/proc/{rank_pid}").exists():
            time.sleep(1.0)
    os._exit(0)
