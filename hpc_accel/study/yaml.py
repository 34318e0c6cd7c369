"""Read one YAML file a person wrote, safely, and keep the line of every key for error messages.

YAML 1.2 by ruamel.yaml: duplicate keys and tags are errors, `on` stays a string, `1e-3` is a number.
Size, depth and aliases are bounded first, because a small file can expand without end.
"""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, DocumentStartEvent, ScalarEvent
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from hpc_accel.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
T = TypeVar("T", bound=BaseModel)
Lines = dict[tuple[str | int, ...], int]


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """The mapping in `path`, and the 1-based line of every key path in it.

    Raises ConfigError for anything that is not one plain mapping of bounded size.
    """
    text = _text(path)
    try:
        _check_bounds(path, text)
        data = YAML(typ="safe", pure=True).load(StringIO(text))
        node = YAML(typ="safe", pure=True).compose(StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = " ".join(str(error.problem or error.context or error).split())
        remedy = "indent with spaces, give each key once, use no !tags"
        raise ConfigError(f"{where}: {problem}", "the file is plain YAML 1.2", remedy) from None
    except (YAMLError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{path}: {first}", "the file is plain YAML 1.2", "correct that place") from None
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise ConfigError(f"{path} is {kind}", "the file holds one mapping of keys", "write `key: value` lines")
    lines: Lines = {}
    _collect_lines(node, (), lines)
    return data, lines


def validated(model: type[T], data: dict[str, Any], path: Path, lines: Lines) -> T:
    """`data` as `model`; the first error of the schema becomes value, rule, remedy with its line."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _config_error(model, error, path, lines) from None


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path} has {size} bytes", f"at most {MAX_BYTES}", "split it into several studies")
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is not UTF-8", "the file is UTF-8 text", "save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", "the file must exist and be readable", "check the path"
        ) from None


def _check_bounds(path: Path, text: str) -> None:
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(StringIO(text)):
        if isinstance(event, AliasEvent):
            line = event.start_mark.line + 1
            raise ConfigError(f"{path}:{line}: an alias *{event.anchor}", "aliases are refused", "write it out")
        if isinstance(event, ScalarEvent) and event.value == "<<" and not event.style:
            line = event.start_mark.line + 1
            raise ConfigError(f"{path}:{line}: a merge key <<", "merge keys are refused", "write the keys out")
        if isinstance(event, DocumentStartEvent) and event.version:
            raise ConfigError(f"{path}: %YAML line", "YAML 1.2 only", "delete the %YAML line")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1
            raise ConfigError(f"{path}:{line}: nested {depth} deep", f"at most {MAX_DEPTH}", "flatten it")


def _collect_lines(node: Node | None, at: tuple[str | int, ...], lines: Lines) -> None:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            here = (*at, key.value)
            lines[here] = key.start_mark.line + 1
            _collect_lines(value, here, lines)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*at, index)] = value.start_mark.line + 1
            _collect_lines(value, (*at, index), lines)


def _config_error(model: type[BaseModel], error: ValidationError, path: Path, lines: Lines) -> ConfigError:
    # Of the branches of a union the one that fits best, which is the one that is told of the deepest place.
    same = [each for each in error.errors() if each["loc"][:1] == error.errors()[0]["loc"][:1]]
    first = max(same, key=lambda each: len(_place(each["loc"], lines)))
    at = _place(first["loc"], lines)
    others = {_place(each["loc"], lines) for each in error.errors()}
    # A value that fits no branch of a union is told once for each branch, and again where it contains what is wrong.
    num_more = sum(other != at[: len(other)] for other in others)
    line = lines.get(at)
    where = f"{path}:{line}" if line else str(path)
    key = ".".join(str(part) for part in (at if first["type"] != "missing" else first["loc"])) or "the file"
    more = f" (and {num_more} more)" if num_more else ""
    if first["type"] == "extra_forbidden":
        owner = _owner(model, at[:-1])
        known = ", ".join(owner.model_fields) if owner else "see docs/study.md"
        return ConfigError(f"{where}: unknown key {key!r}{more}", "every key is known", f"known keys: {known}")
    if first["type"] == "missing":
        return ConfigError(f"{where}: {key!r} is missing{more}", "the key is required", f"add `{first['loc'][-1]}:`")
    rule = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{where}: {key} is {first['input']!r}{more}", rule, "change the value or delete the line")


def _place(location: tuple[str | int, ...], lines: Lines) -> tuple[str | int, ...]:
    """The keys that are in the file, of a location to which branches of unions add the names of types."""
    at: tuple[str | int, ...] = ()
    for part in location:
        if (*at, part) in lines:
            at = (*at, part)
    return at


def _owner(model: type[BaseModel], at: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The schema of the mapping at `at`, to list the keys it knows."""
    owner: Any = model  # Any: walks from model to model
    for part in at:
        if isinstance(part, int):
            continue
        field = owner.model_fields.get(part)
        if field is None:
            return None
        owner = _model_in(field.annotation)
        if owner is None:
            return None
    return owner


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found:
            return found
    return None
