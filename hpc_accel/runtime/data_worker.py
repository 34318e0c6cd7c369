"""Workers of a data loader end with the rank that they read for.

They are children of a fork server, not of the rank, and they inherit the pipe by which that server would learn of the
rank's end: when a rank is killed, nobody ends, and its launcher waits for their standard error for ever.
"""

from __future__ import annotations

import os
import select
import threading
import time
from pathlib import Path


def end_with(rank_pid: int, _worker: int) -> None:
    """To be called in a worker, as torch's worker_init_fn: end it when process `rank_pid` has ended."""
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
