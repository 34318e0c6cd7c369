"""Load a workload from its entry point "package.module:function", and check what it returned.

The function runs with the user's rights; only entries that the user's study names are ever loaded.
"""

from __future__ import annotations

import importlib
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor

from hpc_accel.errors import ConfigError, HpcAccelError
from hpc_accel.study.run import WorkloadSpec
from hpc_accel.workloads.certain_plan import plan_inside
from hpc_accel.workloads.deferred import Deferred
from hpc_accel.workloads.nested import shapes_of
from hpc_accel.workloads.stream import Stream, is_stream, num_samples_of
from hpc_accel.workloads.streams import open_streams
from hpc_accel.workloads.sudden_exit import no_sudden_exit
from hpc_accel.workloads.weight_files import load_weights
from hpc_accel.workloads.workload import Metric, Workload


def build(spec: WorkloadSpec, seed: int) -> Workload:
    """The workload of a run. `seed` fixes what it draws from torch, NumPy and `random`: alike on every rank.

    Of a workload with `meta`, parameters have the values that every layout gives them. Raises ConfigError (value, rule,
    remedy) for anything the user's module gets wrong.
    """
    built = build_deferred(spec, seed)
    if built.deferred is not None:
        with users_code(spec.entry):
            built.deferred.fill([built.model])
    return built


def build_deferred(spec: WorkloadSpec, seed: int) -> Workload:
    """The same; of a workload with `meta`, parameters have no values before `Workload.deferred` fills them."""
    if not spec.meta:
        return build_at_once(spec, seed)
    deferred = Deferred(seed)
    with users_code(spec.entry):
        with deferred.building():
            built = checked(spec.entry, _called(spec, seed), seed, spec.global_batch_size)
        if weights := spec.weights or built.weights:
            load_weights(built.model, weights, deferred)
        deferred.finish(built.model)
        return replace(built, deferred=deferred)


def build_at_once(spec: WorkloadSpec, seed: int) -> Workload:
    """As build() makes it, whatever `meta` says."""
    with users_code(spec.entry):
        built = checked(spec.entry, _called(spec, seed), seed, spec.global_batch_size)
        weights = spec.weights or built.weights
        if weights and not any(isinstance(each, FakeTensor) for each in built.model.parameters()):
            load_weights(built.model, weights, None)
        return built


def _called(spec: WorkloadSpec, seed: int) -> Any:
    """What the user's function returns."""
    function = function_of(spec.entry)
    _check_arguments(spec, function)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        return function(**spec.args)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        if spec.meta and "meta tensor" in str(error):
            raise ConfigError(
                f"entry {spec.entry!r} with meta: true: {error}",
                "with meta: true parameters have no values before a rank needs them: build() sets them and reads none",
                "do not move, save, print or compare weights in build(), or leave meta out",
            ) from error
        raise ConfigError(
            f"entry {spec.entry!r} raised {type(error).__name__}: {error}",
            "the function builds the model, the loss and the data without failing",
            f"try it alone: python -c 'import {_module(spec.entry)} as m; m.{_name(spec.entry)}()'",
        ) from error


@contextmanager
def users_code(entry: str) -> Iterator[None]:
    """Around all that calls the user's code: it ends in the directory it was started in, where a study's paths begin.

    What the code raises, `sys.exit` and `os._exit` among it, becomes ConfigError; errors in our own words stay.
    """
    directory = Path.cwd()
    try:
        with open_streams(), no_sudden_exit(entry):
            yield
    except HpcAccelError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"entry {entry!r}: {type(error).__name__}: {error}",
            "model, loss and data set can be used without failing",
            "correct the line that is named",
        ) from error
    finally:
        os.chdir(directory)


def checked(entry: str, built: Any, seed: int = 0, batch_size: int = 1) -> Workload:
    """`built` as a Workload, its parts tried on one sample. Raises ConfigError naming the part that is wrong.

    A stream is read in batches of `batch_size`, and draws what follows from `seed`.
    """
    if isinstance(built, tuple) and len(built) == 3:
        built = Workload(model=built[0], loss=built[1], dataset=built[2])
    if not isinstance(built, Workload):
        raise _wrong(entry, f"returned {type(built).__name__}", "return (model, loss, dataset) or a Workload")
    if not isinstance(built.model, torch.nn.Module):
        raise _wrong(entry, f"model is {type(built.model).__name__}", "return a torch.nn.Module first")
    if built.loss is not None and not callable(built.loss):
        remedy = "return a function (outputs, targets) -> scalar, or None if the model returns its loss"
        raise _wrong(entry, f"loss is {type(built.loss).__name__}", remedy)
    if built.collate is not None and not callable(built.collate):
        raise _wrong(entry, f"collate is {type(built.collate).__name__}", "return a function (samples) -> batch")
    if is_stream(built.dataset):
        built = replace(built, dataset=Stream(built.dataset, seed, batch_size))
    elif not hasattr(built.dataset, "__len__") or not hasattr(built.dataset, "__getitem__"):
        remedy = "return a map-style dataset or an IterableDataset third"
        raise _wrong(entry, f"dataset is {type(built.dataset).__name__}", remedy)
    if num_samples_of(built.dataset) == 0:
        raise _wrong(entry, "dataset is empty", "return at least one sample")
    sample = built.dataset[0]
    _check_sample(entry, built, "dataset[0]", sample)
    if built.metric is not None:
        _check_metric(entry, built, built.metric, sample)
    if isinstance(built.loss, torch.nn.Module):
        # A loss without parameters only; one with parameters would train on the last stage alone, unnoticed.
        num_parameters = sum(parameter.numel() for parameter in built.loss.parameters())
        if num_parameters:
            raise _wrong(entry, f"loss has {num_parameters} parameters", "move them into the model")
    if not built.model.training:
        # As a whole in eval mode, as from_pretrained leaves it: dropout would be off. Parts in that mode are meant so.
        built.model.train()
    certain = plan_inside(built.model)  # which marks how wide heads are, for any plan
    return built if built.tensor_plan else replace(built, tensor_plan=certain)


def _check_sample(entry: str, built: Workload, name: str, sample: Any) -> None:
    """Part one sample into inputs and target, as every batch will be."""
    if sample is None or isinstance(sample, str | bytes):
        raise _wrong(entry, f"{name} is {type(sample).__name__}", "return (input, target) or a dict for each index")
    if isinstance(sample, tuple | list) and any(part is None for part in sample) and built.collate is None:
        raise _wrong(entry, f"{name} holds None", "return tensors or numbers, or give a collate function")
    try:
        built.rules([sample])
    except ConfigError as error:
        raise ConfigError(f"entry {entry!r}, {name}: {error.value}", error.rule, error.remedy) from error
    except Exception as error:
        raise _wrong(
            entry, f"collate of {name} raised {type(error).__name__}: {error}", "try it alone: collate([dataset[0]])"
        ) from error


def _check_metric(entry: str, built: Workload, metric: Any, sample: Any) -> None:
    if not isinstance(metric, Metric):
        raise _wrong(entry, f"metric is {type(metric).__name__}", "return a Metric, or leave it out")
    if is_stream(metric.dataset):
        raise _wrong(entry, "metric.dataset is a stream", "hold out samples that can be asked for by number")
    if len(metric.dataset) == 0:  # type: ignore[arg-type]
        raise _wrong(entry, "metric.dataset is empty", "hold out at least one sample, or leave the metric out")
    held_out = metric.dataset[0]
    _check_sample(entry, built, "metric.dataset[0]", held_out)
    found, wanted = shapes_of(held_out), shapes_of(sample)
    if built.collate is None and found != wanted:  # what a function of one's own pads may differ
        value = f"metric.dataset[0] has shapes {found}, dataset[0] {wanted}"
        raise _wrong(entry, value, "hold out samples of the same shapes")


def function_of(entry: str) -> Callable[..., Any]:
    """What "package.module:function" names. Raises ConfigError where there is no such thing."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(_module(entry))
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"entry {entry!r}: {type(error).__name__}: {error}",
            "the module can be imported from the directory the study is started in",
            "check the spelling, start in the right directory, or install the package into this environment",
        ) from error
    function = getattr(module, _name(entry), None)
    if not callable(function):
        found = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(
            f"entry {entry!r}: module {_module(entry)} has no function {_name(entry)!r}",
            "the part after the colon is a function of the module",
            f"it has: {', '.join(found) or 'none'}",
        )
    return function


def _check_arguments(spec: WorkloadSpec, function: Callable[..., Any]) -> None:
    try:
        inspect.signature(function).bind(**spec.args)
    except TypeError as error:
        raise ConfigError(
            f"entry {spec.entry!r} with args {_shown(spec.args)}: {error}",
            f"its signature is {_name(spec.entry)}{inspect.signature(function)}",
            "give every argument without a default under workload.args, and no others",
        ) from None


def _shown(args: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in args.items()) + "}"


def _wrong(entry: str, value: str, remedy: str) -> ConfigError:
    return ConfigError(f"entry {entry!r}: {value}", "build() returns model, loss and dataset", remedy)


def _module(entry: str) -> str:
    return entry.partition(":")[0]


def _name(entry: str) -> str:
    return entry.partition(":")[2]
