"""Facts of a workload for the planner, also of one that no node at hand could hold.

It is built as every run builds it until its parameters pass a limit; then it is built again on tensors without values
(torch's FakeTensorMode), which takes seconds for 175 billion parameters.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_parameter_registration_hook

from hpc_accel.errors import ConfigError
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.run import WorkloadSpec
from hpc_accel.workloads import entry
from hpc_accel.workloads.count_facts import describe
from hpc_accel.workloads.deferred import is_empty
from hpc_accel.workloads.optimizer_facts import optimizer_facts
from hpc_accel.workloads.workload import Workload

LARGEST_WITH_VALUES_BYTES = 100 * 10**6
"""Parameters up to which a model is run for real: that also checks the values, in about a second."""
NO_MEMORY = "can't allocate memory"
"""How torch says so."""
SHARE_OF_MEMORY = 0.2
"""Parameters may take this much of what is free: gradients, activations and the data come on top."""


class _TooLargeError(BaseException):
    """Ends a build early. No Exception, so that no `except Exception` of the user's module keeps it."""


def build_up_to(limit_bytes: int, spec: WorkloadSpec, seed: int) -> Workload | None:
    """The workload, if its parameters hold at most `limit_bytes`. Raises ConfigError as `entry.build` does."""
    try:
        with entry.users_code(spec.entry), _parameters_up_to(limit_bytes):
            return entry.build(spec, seed)
    except _TooLargeError:
        return None


def facts_of(spec: WorkloadSpec, seed: int) -> ModelFacts:
    """What the planner needs to know of a workload. Raises ConfigError as `entry.build`, `describe` and
    `optimizer_facts` do.
    """
    with entry.users_code(spec.entry):
        if spec.meta:
            entry.build_deferred(spec, seed)  # what it refuses is told before anything is queued
        workload, facts = _described(spec, seed, tries_cut=True)
        return replace(facts, optimizer=optimizer_facts(spec.optimizer, workload.model, facts.sparse_gradients))


def _described(spec: WorkloadSpec, seed: int, *, tries_cut: bool) -> tuple[Workload, ModelFacts]:
    try:
        with _parameters_up_to(LARGEST_WITH_VALUES_BYTES):
            workload = entry.build_at_once(spec, seed)
            return workload, describe(workload, tries_cut=tries_cut)
    except _TooLargeError:
        pass
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            workload = entry.build_at_once(spec, seed)
        return workload, describe(workload, tries_cut=tries_cut)
    except ConfigError as error:
        without_values = error
    # Something looks at values (`labels.max().item()`): then for real, if this machine can hold it.
    try:
        with _parameters_up_to(int(SHARE_OF_MEMORY * free_memory_bytes())):
            workload = entry.build_at_once(spec, seed)
            return workload, describe(workload, tries_cut=tries_cut)
    except _TooLargeError:
        raise ConfigError(
            f"{without_values.value} (on tensors without values)",
            "a model too large for this machine is described without values: build() and forward() must not read any",
            "take sizes from shapes and arguments, not from .item(), .tolist() or `if tensor:`; or plan on a node with "
            "more memory",
        ) from without_values


def facts_of_built(workload: Workload, spec: WorkloadSpec, seed: int, *, tries_cut: bool = False) -> ModelFacts:
    """Facts of a workload that is built already, without its optimizer; it is run if it is small."""
    num_bytes = sum(each.numel() * each.element_size() for each in workload.model.parameters())
    with entry.users_code(spec.entry):
        runs = num_bytes <= LARGEST_WITH_VALUES_BYTES and not is_empty(workload.model)
        return describe(workload, tries_cut=tries_cut) if runs else _described(spec, seed, tries_cut=tries_cut)[1]


@contextmanager
def _parameters_up_to(limit_bytes: int) -> Iterator[None]:
    """Raises _TooLargeError when parameters registered inside hold more than `limit_bytes`, or memory is refused."""
    seen: set[int] = set()
    total = 0

    def count(module: nn.Module, name: str, parameter: torch.Tensor | None) -> None:
        nonlocal total
        if parameter is None or id(parameter) in seen:  # a tied weight is registered twice
            return
        seen.add(id(parameter))
        total += parameter.numel() * parameter.element_size()
        if total > limit_bytes:
            raise _TooLargeError

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    except ConfigError as error:
        if NO_MEMORY in str(error.__cause__):  # one parameter is larger than what the system gives
            raise _TooLargeError from error
        raise
    finally:
        handle.remove()


def free_memory_bytes() -> int:
    """Of this machine, at present."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
