"""Write a study and a module of one's own to start from; the two files beside this one are the originals."""

from __future__ import annotations

import keyword
from pathlib import Path

from hpc_accel.errors import CannotCreateError, UsageError

HERE = Path(__file__).parent


def write_starter(directory: Path, name: str) -> list[Path]:
    """studies/<name>.yaml and <name>_model.py under `directory`. Existing files are never overwritten.

    Raises UsageError for a name that cannot be a module, CannotCreateError when a file is in the way.
    """
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
        raise UsageError(
            f"name {name!r}",
            "it becomes a Python module and a file name: letters, digits and _, not beginning with a digit",
            "for example --name mine",
        )
    files = {
        directory / "studies" / f"{name}.yaml": (HERE / "study.yaml").read_text().replace("@NAME@", name),
        directory / f"{name}_model.py": (HERE / "model.py.txt").read_text(),
    }
    for path in files:
        if path.exists():
            raise CannotCreateError(f"{path} exists", "a file of yours is never overwritten", "choose another --name")
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise CannotCreateError(
                f"{path}: {error.strerror}", "the directory must be writable", "choose another directory"
            ) from None
    return list(files)
