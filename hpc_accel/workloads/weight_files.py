"""Weights in safetensors files: each is read when its parameter gets its values, on the ranks that hold it alone."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.deferred import Deferred

SUFFIX = ".safetensors"


def load_weights(model: nn.Module, path: str, deferred: Deferred | None) -> None:
    """Give `model` the weights in the file or directory at `path`; those of a `deferred` model are read later.

    Names in the files are those of the model's parameters, or of those of one of its children. Raises ConfigError for
    parameters that are in no file, and for other shapes.
    """
    found = _tensors_in(path)
    prefix = _prefix(model, found, path)
    done: set[int] = set()
    tensors = [
        *model.named_parameters(remove_duplicate=False),
        *((name, each) for name, each in model.named_buffers() if name.removeprefix(prefix) in found),
    ]
    for name, tensor in tensors:
        key = name.removeprefix(prefix)
        if id(tensor) in done or key not in found:
            continue
        file, shape = found[key]
        if shape != tuple(tensor.shape):
            raise _unlike(path, f"{key} has shape {list(shape)}", f"{name} has {list(tensor.shape)}")
        done.add(id(tensor))
        if deferred is not None and tensor.is_meta:
            stamp = file.stat()  # another file is another reference
            deferred.tape.set_by(read_into, tensor, str(file), key, stamp.st_size, stamp.st_mtime_ns)
        else:
            read_into(tensor.detach(), str(file), key)


def read_into(tensor: torch.Tensor, file: str, key: str, *_: int) -> None:
    """Read one tensor of a file into `tensor`, in its type."""
    with safe_open(file, framework="pt") as opened:
        tensor.copy_(opened.get_tensor(key))


def _tensors_in(path: str) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """File and shape of every tensor, by name."""
    place = Path(path).expanduser().resolve()
    files = sorted(place.glob(f"*{SUFFIX}")) if place.is_dir() else [place]
    if not files or not all(each.is_file() for each in files):
        raise ConfigError(
            f"weights {path}",
            f"it is a {SUFFIX} file, or a directory with such files, that every node can read",
            "write one with safetensors.torch.save_file(model.state_dict(), path)",
        )
    found = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                found.update({key: (file, tuple(opened.get_slice(key).get_shape())) for key in opened.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise _unlike(path, f"{file.name}: {error}", "it is a safetensors file") from error
    return found


def _prefix(model: nn.Module, found: dict[str, tuple[Path, tuple[int, ...]]], path: str) -> str:
    """What stands before a file's names in the model's."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    missing: dict[str, list[str]] = {}
    for prefix in ("", *(f"{name}." for name, _ in model.named_children())):
        missing[prefix] = [each[0] for each in names.values() if all(n.removeprefix(prefix) not in found for n in each)]
        if not missing[prefix]:
            return prefix
    least = min(missing.values(), key=len)
    raise _unlike(path, f"{least[0]} and {len(least) - 1} more are in no file", "every parameter is in one by its name")


def _unlike(path: str, value: str, rule: str) -> ConfigError:
    remedy = "save the model as build() makes it: safetensors.torch.save_file(model.state_dict(), path)"
    return ConfigError(f"weights {path}: {value}", rule, remedy)
