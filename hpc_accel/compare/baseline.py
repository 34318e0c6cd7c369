"""A baseline: one small JSON file, kept in git, that a study is compared with when its results are gone."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from hpc_accel.compare.reduce import side_of
from hpc_accel.compare.side import FORMAT, KIND, Side
from hpc_accel.errors import DataError, UsageError
from hpc_accel.files import read_object, write_atomically

WRITE = "write one: hpc-accel compare RESULTS --write-baseline FILE"
RULE = "a side of a comparison is a study's results directory or a baseline file"


def read_side(path: Path) -> Side:
    """A results directory or a baseline file. Raises UsageError or DataError for anything else."""
    if path.is_dir():
        side = side_of(path)
    elif path.exists():
        side = _read(path)
    else:
        raise UsageError(f"{path} is not there", RULE, f"name a directory such as results/quickstart, or {WRITE}")
    if not any(each.repeats for each in side.configurations):
        why = next((each.problem for each in side.configurations if each.problem), "it has no runs")
        raise DataError(
            f"{path}: no run counts ({why})",
            "only completed runs, which compute what the serial run computes, are compared",
            "measure the study again: hpc-accel run STUDY",
        )
    return side


def _read(path: Path) -> Side:
    content = read_object(path)
    if isinstance(content, str):
        raise DataError(f"{path}: {content}", RULE, WRITE)
    if content.get("kind") != KIND:
        raise DataError(f"{path} is no baseline file: its kind is {content.get('kind')!r}", RULE, WRITE)
    if content.get("format") != FORMAT:
        rule = f"this version reads format {FORMAT}"
        raise DataError(f"{path} has format {content.get('format')!r}", rule, f"measure again, and {WRITE}")
    try:
        return Side.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {where}: {first['msg']}", "a baseline is not edited by hand", WRITE) from error


def write_baseline(side: Side, path: Path) -> None:
    """Write a side as a file. Raises UsageError rather than replace a file that is no baseline."""
    if path.exists():
        content = read_object(path)
        if isinstance(content, str) or content.get("kind") != KIND:
            raise UsageError(f"{path} is there and is no baseline file", "no other file is replaced", "name another")
    content = side.model_dump(mode="json", exclude_defaults=True)
    # What tells a baseline from other files stands first.
    text = json.dumps({"kind": KIND, "format": FORMAT, **content}, indent=1, ensure_ascii=False)
    write_atomically(path, text + "\n")
