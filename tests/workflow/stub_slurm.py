"""A Slurm of shell scripts on PATH, whose jobs wait for ever and which can fall silent. Files in its directory:

jobs             ids of jobs in the queue; `scancel` takes them out
reason           why they wait
silent/<name>    the command <name> hangs; failing/<name>: it fails
"""

from __future__ import annotations

from pathlib import Path

COMMANDS = {
    "sbatch": """
        id=$(($(cat number 2>/dev/null || echo 100) + 1)); echo $id > number; echo $id >> jobs; echo $id
    """,
    "squeue": """
        for id in $(cat jobs 2>/dev/null); do
            case "$*" in *%r*) echo "$id|PENDING|$(cat reason)";; *) echo "$id|PENDING";; esac
        done
    """,
    "scancel": """
        for id in "$@"; do sed -i "/^$id$/d" jobs; done
    """,
    "sacct": "true",
    "sacctmgr": "true",
    "sinfo": "echo 'part*'",
    "scontrol": "echo 'MinJobAge = 300 sec'",
}


def make(directory: Path, programs: Path) -> None:
    """Write the commands into `programs`; their files go to `directory`."""
    for name in ("silent", "failing"):
        (directory / name).mkdir(parents=True)
    (directory / "reason").write_text("Resources\n")
    for name, text in COMMANDS.items():
        script = f"""#!/bin/bash
cd {directory}
[ -e silent/{name} ] && exec sleep 3600
[ -e failing/{name} ] && {{ echo "{name}: error: Unable to contact slurm controller" >&2; exit 1; }}
{text}
"""
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
