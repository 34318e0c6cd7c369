"""What a launcher and its ranks need of a machine beside programs: looked at before they start and say it badly.

Open MPI ends with codes 1, 14 and 213, in words of its own, where there is no home directory, no room in /dev/shm or
none for temporary files. Only the node on which the script runs is looked at.
"""

from __future__ import annotations

import errno
import os
import pwd
import tempfile
from collections.abc import Callable, MutableMapping, Sequence
from itertools import pairwise
from pathlib import Path

from hpc_accel.errors import CannotCreateError, ConfigError, InputOutputError
from hpc_accel.jobs.placement import is_hydra

SHARED_MEMORY = Path("/dev/shm")
SHARED_BYTES = 24 * 2**20
"""Open MPI 5 asks for 16 MiB and some more of free memory there, whatever the number of ranks."""
TEMPORARY_BYTES = 2**20
"""Sockets, names and settings of a launch; a whole one wrote less than 100 KiB."""
FULL = {errno.ENOSPC, errno.EDQUOT}


def check_machine(
    command: Sequence[str], environ: MutableMapping[str, str], tell: Callable[[str], None], *, one_host: bool
) -> None:
    """Make up for a missing HOME, and raise for what cannot be made up for. `one_host`: ranks meet in shared memory.

    Raises CannotCreateError and InputOutputError for a directory of temporary files that is not there or is full, and
    ConfigError for too little shared memory.
    """
    _have_home(environ, tell)
    _have_temporary(environ)
    if one_host and command and command[0] == "mpirun" and _num_ranks(command) > 1:
        _have_shared_memory(environ)


def _have_home(environ: MutableMapping[str, str], tell: Callable[[str], None]) -> None:
    """Cron, systemd and some containers set none."""
    if environ.get("HOME"):
        return
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        home = ""
    environ["HOME"] = home if Path(home or "-").is_dir() else tempfile.gettempdir()
    tell(f"HOME is not set: ranks get {environ['HOME']}")


def _have_temporary(environ: MutableMapping[str, str]) -> None:
    directory = environ.get("TMPDIR") or "/tmp"
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            os.posix_fallocate(file.fileno(), 0, TEMPORARY_BYTES)
    except OSError as error:
        value, rule = f"{directory}: {error.strerror or error}", "the launcher and its ranks keep temporary files there"
        if error.errno in FULL:
            raise InputOutputError(
                value, f"{rule}, at least {TEMPORARY_BYTES // 2**20} MiB", "make room there, or set TMPDIR elsewhere"
            ) from None
        raise CannotCreateError(
            value, f"{rule} (TMPDIR, else /tmp)", "make that directory writable, or set TMPDIR elsewhere"
        ) from None


def _have_shared_memory(environ: MutableMapping[str, str]) -> None:
    """Open MPI's ranks of one host meet there, unless the user chose another way for them."""
    if "sm" not in environ.get("OMPI_MCA_btl", "").split(","):
        return
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return
    free_bytes = found.f_bavail * found.f_frsize
    if free_bytes < SHARED_BYTES and not is_hydra(environ):
        raise ConfigError(
            f"{SHARED_MEMORY} has {free_bytes / 2**20:.1f} MiB free",
            f"ranks of one host exchange data through it, which takes {SHARED_BYTES // 2**20} MiB",
            "delete what fills it, mount a larger one (docker run --shm-size=1g), or export OMPI_MCA_btl=self,tcp, "
            "which is slower",
        )


def _num_ranks(command: Sequence[str]) -> int:
    """What all `-n` of a launch line ask for."""
    return sum(int(value) for option, value in pairwise(command) if option == "-n" and value.isdigit())
