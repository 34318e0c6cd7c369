"""What pipeline stages must know of a workload: what stands against them, and what the last one returns."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from hpc_accel.study.model_facts import Result
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.nested import is_cuttable, shapes_of
from hpc_accel.workloads.stream import spread_over
from hpc_accel.workloads.workload import Workload

NUM_COLLATED = 8


def no_stages(workload: Workload, batch: Batch, outputs: list[Any], *, chained: bool) -> str:
    """Why stages of a pipeline, which pass on tensors of one shape, cannot run this workload; "" where they can.

    Stages of blocks (`chained`) are given the model's inputs, in a dict too, and their blocks may return more.
    """
    cuttable = is_cuttable((batch.args, batch.kwargs), batch.count)
    own = workload.loss is None
    reasons = (
        (own and not chained, "a model that returns its loss, and has no blocks that run one after the other"),
        (bool(batch.kwargs) and not chained, "a batch that is a dict"),
        (not (cuttable if chained else batch.is_plain), "inputs that are no tensors of samples"),
        (workload.collate is not None and _shape_varies(workload), "batches of different shapes"),
        (not chained and not all(map(_is_tensor, outputs)), "outputs that are no single tensor"),
        (not own and not all(map(_is_tensor, tree_leaves(outputs[-1]))), "outputs that hold other than tensors"),
        (not own and not is_cuttable(batch.targets, batch.count), "targets that are no tensors of samples"),
    )
    return next((words for holds, words in reasons if holds), "")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def result_of(workload: Workload, outputs: Any) -> Result:
    """What of its `outputs` the last stage hands on."""
    return "loss" if workload.loss is None else "tensor" if _is_tensor(outputs) else "nested"


def _shape_varies(workload: Workload) -> bool:
    """Whether single samples, collated, have other shapes, as those have that are padded to the longest."""
    numbers = spread_over(workload.dataset, NUM_COLLATED)
    found = [shapes_of((each.args, each.targets)) for each in (workload.batch_of([number]) for number in numbers)]
    return any(each != found[0] for each in found)
