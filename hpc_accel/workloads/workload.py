"""What a workload's `build` returns: model, loss, data, metric, and what cannot be guessed about the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import Dataset

from hpc_accel.workloads.batch import Batch, BatchRules, own_loss
from hpc_accel.workloads.deferred import Deferred
from hpc_accel.workloads.stream import spread_over
from hpc_accel.workloads.tensor_plan import Plan

Loss = Callable[[Any, Any], torch.Tensor]
"""(outputs, targets), each as the model and the collated batch have them -> scalar."""
Score = Callable[[Any, Any], float]
NO_METRIC = "the workload names no metric"
NOT_ASKED = "the study sets metric_samples: 0"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How good the trained model is, on samples it was not trained on.

    name: with its unit if it has one ("accuracy", "bits_per_byte").
    compute: (outputs, targets) -> figure; both are of all held-out samples looked at, concatenated, on the CPU, and
        what is floating point is in fp32. Nested outputs and targets keep their structure.
    dataset: held-out data of the same form as the training data, collated alike.
    also: further figures of the same outputs and targets, by name.
    """

    name: str
    compute: Score
    higher_is_better: bool
    dataset: Dataset[Any]
    also: Mapping[str, Score] = field(default_factory=dict)

    def chosen(self, most: int) -> list[int]:
        """Indices of at most `most` held-out samples, evenly spread; the same for every layout."""
        return spread_over(self.dataset, most)

    def figure(self, name: str, outputs: Any, targets: Any) -> tuple[float | None, str]:
        """The metric of that name, or one of `also`: (figure, ""), or (None, why there is none).

        The function is the user's; when it fails, what was measured before is worth keeping.
        """
        compute = self.compute if name == self.name else self.also[name]
        try:
            value = float(compute(outputs, targets))
        except Exception as error:
            return None, f"{name} raised {type(error).__name__}: {error}"
        return (value, "") if math.isfinite(value) else (None, f"{name} is not finite")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model to train, on what, and against which loss.

    model: in fp32 on the CPU; a `torch.nn.Sequential` can be cut into pipeline stages between its children.
    loss: (outputs, targets) -> scalar: the mean over samples, or over the items that count (tokens that are not
        ignored, class weights), which is measured before training. None for a model that returns its loss.
    dataset: map-style, or a stream (an IterableDataset); what a sample may be, and how it is parted into inputs and
        target, stands in `batch.py`.
    collate: what makes one batch of a list of samples; by default torch's default_collate.
    target: of samples that are dicts, the keys that are no inputs, one or several.
    tensor_plan: which layers tensor parallelism cuts, by module name; `*` matches any part of it. The cuts are those
        of `tensor_plan.py`; "transformer" finds the layers of blocks with common names.
    blocks: name of the list of modules that stages are cut between, for a model that is no Sequential ("model.layers");
        by default found among its lists.
    metric: what the trained model is judged by; None where nothing can be learnt.
    gather_outputs: whether the loss is given the outputs and targets of all replicas, in their order, and not those of
        each: what a loss needs that compares samples with each other (in-batch negatives). Gradients go back to the
        replica that an output came from, and the global batch's loss is counted once.
    weight: (targets) -> how much they count, for a loss that is no mean over samples and whose weights cannot be found
        by measurement: the global batch's loss is sum(weight L) / sum(weight) over its parts. The targets are the
        collated ones; with loss None those of the labels, or the whole batch.
    weights: path of a safetensors file, or of a directory of them, with the model's parameters by their names; with
        `meta: true` each rank reads only what it holds.
    deferred: how parameters come by their values, where the study says `meta: true`; not the user's to set.
    """

    model: torch.nn.Module
    loss: Loss | None
    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None = None
    target: str | tuple[str, ...] = ()
    tensor_plan: Plan = field(default_factory=dict)
    blocks: str = ""
    metric: Metric | None = None
    weight: Callable[[Any], torch.Tensor | float] | None = None
    gather_outputs: bool = False
    weights: str = ""
    deferred: Deferred | None = None

    @property
    def rules(self) -> BatchRules:
        """How its samples become a batch."""
        target = (self.target,) if isinstance(self.target, str) else tuple(self.target)
        return BatchRules(collate=self.collate, target=target, has_loss=self.loss is not None)

    def result_of(self, outputs: Any) -> Any:
        """What of the model's outputs is trained on: all that the loss takes, or the loss that the model returns."""
        return own_loss(outputs) if self.loss is None else outputs

    def batch_of(self, indices: Sequence[int], dataset: Any = None) -> Batch:
        """The samples of these numbers of its data, or of another `dataset` of that kind.

        Raises ConfigError for what does not fit together.
        """
        chosen: Any = self.dataset if dataset is None else dataset
        return self.rules([chosen[index] for index in indices], indices)
