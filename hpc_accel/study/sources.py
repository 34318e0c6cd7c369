"""The user's files that a workload depends on: its module, the modules of theirs that it imports, the data it names.

Modules are read, not run: imports are found in the syntax tree. A module is the user's where it lies outside Python's
own library and the installed packages. A file is named where an argument of the entry, or a text in the user's code, is
the path of a file that is there: from the working directory, or from the folder of the module that names it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import hpc_accel
from hpc_accel.errors import ConfigError

MAX_HASHED_BYTES = 64 * 2**20
"""A larger file is known by its size and its time of change: reading it would delay every start."""
NOT_THE_USERS = tuple(
    Path(path).resolve()
    for path in {
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib", "scripts")),
        *hpc_accel.__path__,
    }
)


def sources(entry: str, args: dict[str, Any]) -> dict[str, str]:
    """Digest by path, relative to the working directory where the file lies below it.

    Raises ConfigError where the entry's module is not found.
    """
    here = Path.cwd()
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    module = entry.partition(":")[0]
    if spec_of(module) is None:
        raise ConfigError(
            f"entry {entry!r}: no module {module!r}",
            "the module must be importable from the directory the study is started in",
            "check the spelling, or install the package into this environment",
        )
    files = set(_named_files(args))
    for path, tree in _modules(module):
        files.add(path)
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        files |= {*_named_files(texts), *_named_files(texts, path.parent)}
    return {_shown(path, here): digest(path) for path in sorted(files)}


def changed(known: dict[str, str]) -> list[str]:
    """The files of `known` whose content is no longer what it was, or that are gone."""
    return [name for name, was in known.items() if not Path(name).is_file() or digest(Path(name)) != was]


def is_users(path: Path) -> bool:
    """Whether `path` is a file outside Python's own library, the installed packages and this one."""
    path = path.resolve()
    return path.is_file() and not any(path.is_relative_to(directory) for directory in NOT_THE_USERS)


def users_frame(error: BaseException) -> str | None:
    """The innermost line of the user's own code on the way to `error`, as `file:line in function`; None without one."""
    frames = traceback.extract_tb(error.__traceback__)
    if error.__cause__ is not None:  # what the user's code raised, before it was told as value, rule, remedy
        frames = traceback.StackSummary([*frames, *traceback.extract_tb(error.__cause__.__traceback__)])
    for frame in reversed(frames):
        if is_users(Path(frame.filename)):
            return f"{frame.filename}:{frame.lineno} in {frame.name}"
    return None


def digest(path: Path) -> str:
    """Sixteen hexadecimal digits for the content of a file."""
    facts = path.stat()
    if facts.st_size > MAX_HASHED_BYTES:
        return f"{facts.st_size:x}-{facts.st_mtime_ns:x}"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _shown(path: Path, here: Path) -> str:
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _modules(first: str) -> Iterator[tuple[Path, ast.Module]]:
    """File and syntax tree of each module of the user's that `first` reaches by imports, itself included."""
    waiting, seen = [first], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        parent = name.rpartition(".")[0]
        waiting += [parent] if parent else []
        spec = spec_of(name)
        path = Path(spec.origin).resolve() if spec and spec.origin and spec.origin.endswith(".py") else None
        if path is None or not is_users(path):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError) as error:
            raise ConfigError(f"{path}: {error}", "the user's modules are Python", "correct that line") from None
        yield path, tree
        package = name if path.name == "__init__.py" else parent
        waiting += _imports(tree, package)


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Names of modules that a module may import; some are names inside a module and are not found later."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def spec_of(name: str) -> ModuleSpec | None:
    """Where a module lies, found without running its package's code."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for part in rest:
            if spec is None or spec.submodule_search_locations is None:
                return None
            # By its last name alone: a folder without __init__.py would look for its parent among imported modules.
            spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    except (ImportError, ValueError, AttributeError):
        return None
    return spec


def _named_files(value: Any, folder: Path = Path()) -> Iterator[Path]:
    """Paths of files that are there, from `folder`, among the texts in nested lists and mappings."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _named_files(each, folder)
    elif isinstance(value, str) and 0 < len(value) < 1024 and "\n" not in value and "\0" not in value:
        path = folder / Path(value).expanduser()
        try:
            if path.is_file():
                yield path.resolve()
        except OSError:
            return
