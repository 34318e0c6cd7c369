"""Where a launcher puts the ranks: the script says it for Open MPI or srun, here it becomes the words of what is here.

A script's launch line runs as it stands where it fits. Three things change it, each told in the log: MPICH and its
relatives (Hydra) have other options; outside Slurm there is one machine, whatever the script was written for; and the
GPUs of one machine are those that are visible.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence

from hpc_accel.jobs.allocation import Component

NO_GPU = ("CUDA_VISIBLE_DEVICES=-1", "HIP_VISIBLE_DEVICES=-1")
"""For ranks without GPUs: Slurm passes on what the batch shell, on a node of the first component, has."""
ONE_MACHINE = ":OVERSUBSCRIBE"
"""Open MPI's --map-by on one machine, which need not have a core for each rank."""
VISIBLE = "CUDA_VISIBLE_DEVICES="
OPTIONS_WITH_VALUE = frozenset({"-n", "--map-by", "--bind-to"})


def one_machine(bind: str) -> list[str]:
    """Open MPI's options on one machine; `bind` is none, core, socket or numa."""
    return ["--map-by", ONE_MACHINE, "--bind-to", bind + (":overload-allowed" if bind != "none" else "")]


def is_hydra(environ: Mapping[str, str]) -> bool:
    """Whether the `mpirun` on PATH is MPICH's or a relative's, not Open MPI's."""
    command = ["mpirun", "--version"]
    try:
        told = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return False  # the launch itself will say what is wrong
    return not any(name in told.stdout + told.stderr for name in ("Open MPI", "OpenRTE"))


def in_hydra_words(words: Sequence[str]) -> list[str]:
    """`words` of an mpirun with Open MPI's --map-by and --bind-to, which become Hydra's; others stay."""
    if "--map-by" not in words or "--bind-to" not in words:
        return list(words)
    at = {option: words.index(option) for option in ("--map-by", "--bind-to")}
    map_by, bind = (words[index + 1] for index in at.values())
    gone = {index + shift for index in at.values() for shift in (0, 1)}
    per_node, cores = re.search(r"ppr:(\d+):node", map_by), re.search(r":PE=(\d+)", map_by)
    bind = bind.partition(":")[0]
    place = ["-ppn", per_node[1]] if per_node else []
    if map_by != ONE_MACHINE or bind != "none":
        place += ["-bind-to", f"{bind}:{cores[1]}" if cores and bind == "core" else bind]
    first = min(gone)
    return [*words[:first], *place, *(word for index, word in enumerate(words) if index > first and index not in gone)]


def on_one_machine(
    words: Sequence[str], wanted: Sequence[Component], bind: str, environ: Mapping[str, str]
) -> list[str]:
    """A cluster's launch line for this machine: as many ranks with the same programs, all started by mpirun here."""
    parts = [_without_options(part) for part in split_parts(words[1:])]
    launch: list[str] = ["mpirun", *(one_machine(bind) if len(parts) > 1 else [])]
    first_gpu = 0
    for number, (component, program) in enumerate(zip(wanted, parts, strict=True)):
        launch += [*([":"] if number else []), "-n", str(component.num_ranks)]
        if len(parts) == 1:
            launch += one_machine(bind)
        if len(parts) > 1 and component.num_gpus:  # components share out the GPUs of the machine, in order
            mine = range(first_gpu, first_gpu + component.num_gpus)
            launch += ["env", VISIBLE + ",".join(map(str, mine))]
            first_gpu = mine.stop
        launch += program
    return with_visible_gpus(launch, environ)


def with_visible_gpus(words: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """CUDA_VISIBLE_DEVICES=0,1 in a launch line counts the GPUs that are visible to this process."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if not visible:
        return list(words)
    names = visible.split(",")

    def named(word: str) -> str:
        numbers = word.removeprefix(VISIBLE).split(",")
        if not word.startswith(VISIBLE) or not all(number.isdigit() for number in numbers):
            return word
        return VISIBLE + ",".join(names[int(number)] for number in numbers if int(number) < len(names))

    return [named(word) for word in words]


def split_parts(words: Sequence[str]) -> list[list[str]]:
    """A launch line cut at its colons: one part for each component."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == ":":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _without_options(words: list[str]) -> list[str]:
    """From the program on, without the launcher's options before it."""
    index = 0
    while index < len(words) and words[index].startswith("-"):
        index += 2 if words[index] in OPTIONS_WITH_VALUE else 1
    return words[index:]
