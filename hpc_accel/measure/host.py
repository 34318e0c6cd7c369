"""Which machine this is: the boot of its kernel and its name together.

A name alone merges equally named nodes; a boot id alone merges containers that share a kernel and are
called differently. Tests may pretend (HPC_ACCEL_NODE_ID), and only under HPC_ACCEL_TESTING=1.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path


def pretended(variable: str) -> str | None:
    """A test's pretence from the environment; None outside of tests."""
    return os.environ.get(variable) if os.environ.get("HPC_ACCEL_TESTING") == "1" else None


def boot_id() -> str:
    """The kernel's identity of this boot; differs between all machines and restarts."""
    pretence = pretended("HPC_ACCEL_NODE_ID")
    if pretence is not None:
        return pretence
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown-boot"


def node_id() -> str:
    """Identity of this node: boot id and host name."""
    return f"{boot_id()}/{platform.node()}"
