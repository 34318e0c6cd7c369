"""A model that is no Sequential, cut by torch's tracer before some of its blocks; and whether that can be done."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.blocks import blocks_of

if TYPE_CHECKING:
    from torch.distributed.pipelining import Pipe

REMEDY = "return a torch.nn.Sequential from build(), or use dp, shard or tp"


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """A forward pass inside that only looks at shapes leaves no trace in running statistics and counters."""
    before = [(each, each.detach().clone()) for each in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def traced(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    starts: Sequence[int],
    autocast_dtype: torch.dtype | None = None,
) -> Pipe:
    """The model cut before the blocks `starts` (numbers), for inputs of this shape. The model is annotated.

    Raises ConfigError for a model that torch.export cannot trace, control flow on values for example, and for one whose
    blocks are not called once each, in the order of their list.
    """
    from torch.distributed.pipelining import SplitPoint, pipeline

    names = [name for name, _ in blocks_of(model)]
    before = {names[start]: SplitPoint.BEGINNING for start in starts}
    try:
        # Under autocast, so that stages expect what their neighbours will send.
        autocast = torch.autocast("cpu", dtype=autocast_dtype, enabled=autocast_dtype is not None)
        with warnings.catch_warnings(), autocast:
            warnings.simplefilter("ignore", FutureWarning)  # torch's tracer uses what torch itself deprecates
            pipe = pipeline(model, mb_args=inputs, split_spec=before)
            with torch.no_grad(), buffers_kept(pipe):
                pipe(*inputs)  # some models are cut without complaint into stages that cannot run
    except Exception as error:
        raise ConfigError(
            f"{type(model).__name__} cannot be cut by the tracer: {_first_line(error)}",
            "pp > 1 cuts a model that is no torch.nn.Sequential with torch.export",
            REMEDY,
        ) from error
    if pipe.num_stages != len(starts) + 1:
        raise ConfigError(
            f"{type(model).__name__} traced into {pipe.num_stages} stage(s) of {len(starts) + 1}",
            "each block is called once, in the order of its list",
            REMEDY,
        )
    return pipe


def why_not_traced(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> str:
    """Why the tracer cannot cut the model, before every block that has parameters or in its middle; "" where it can.

    A copy is cut, on the CPU, in as many seconds as torch.export takes.
    """
    holders = [index for index, (_, block) in enumerate(blocks_of(model)) if any(True for _ in block.parameters())]
    problem = ""
    for starts in (holders[1:], holders[len(holders) // 2 :][:1]):
        try:
            with torch.random.fork_rng(devices=[]):
                traced(deepcopy(model), inputs, starts)
            return ""
        except Exception as error:  # a model that cannot be copied, too
            problem = problem or (error.value if isinstance(error, ConfigError) else _first_line(error))
    return problem


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
