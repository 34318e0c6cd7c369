"""The model as it is served: pruned, cast, cut into the layout's parts, quantised, compiled; called on one batch.

Weights are cast, not autocast as in training: 16-bit weights halve the memory that a small batch is bound by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import default_collate

from hpc_accel.errors import ConfigError
from hpc_accel.infer.pruning import compress_two_of_four, prune_weights
from hpc_accel.infer.quantize import check_linears, quantize_linears
from hpc_accel.parallel.apply import parallelize
from hpc_accel.parallel.memory_layout import CHANNELS_LAST, channels_last, set_channels_last
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Run
from hpc_accel.workloads.nested import mapped
from hpc_accel.workloads.workload import Workload

WEIGHTS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Tensors = tuple[torch.Tensor, ...]
"""The tensors of a batch's inputs, in order, whatever they are nested in."""
Form = Callable[[Sequence[torch.Tensor]], tuple[tuple[Any, ...], dict[str, Any]]]
"""Puts such tensors into the (args, kwargs) that the model is called with."""


@dataclass(frozen=True, kw_only=True)
class InferenceModel:
    """This rank's part. `module` is called directly, or through `schedule` where the layout has stages."""

    module: nn.Module
    schedule: Any
    place: RankCoordinates
    device: torch.device
    dtype: torch.dtype
    batch_size: int
    channels_last: bool
    fixed_size: bool
    """Whether every batch must be full, because shapes are compiled in or agreed between stages."""
    notes: tuple[str, ...]
    form: Form

    def __call__(self, inputs: Tensors) -> Any:
        """Outputs of at most `batch_size` samples, on the ranks that have them. Collective over the replica.

        `inputs` are needed on the first stage only. Where a batch was padded, outputs of the padding come last.
        """
        prepared = tuple(self._prepared(each) for each in inputs)
        if self.schedule is None:
            args, kwargs = self.form(prepared)
            return mapped(_arrived, self.module(*args, **kwargs))
        # A schedule wants targets wherever it was given a loss; the loss here is none.
        targets = torch.zeros(self.batch_size, device=self.device) if self.place.is_last_stage else None
        outputs: torch.Tensor | None = self.schedule.eval(*prepared, target=targets)
        return _arrived(outputs) if outputs is not None else None

    def release(self) -> None:
        """Give the weights' memory back, whoever else refers to the modules. Nothing can be computed afterwards."""
        for part in self.module.modules():
            if not isinstance(part, torch.jit.ScriptModule):  # whose weights are not in Python's hands
                part._parameters.clear()
                part._buffers.clear()

    def _prepared(self, tensor: torch.Tensor) -> torch.Tensor:
        # Cast on the device: torch would cast in pageable host memory first, and the copy from there holds the host up.
        tensor = tensor.to(self.device, non_blocking=True)
        tensor = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        if self.fixed_size and len(tensor) < self.batch_size:
            missing = self.batch_size - len(tensor)
            tensor = torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])])
        return channels_last(tensor) if self.channels_last else tensor


def _cast_batches(workload: Workload, dtype: torch.dtype) -> Callable[[list[Any]], Any]:
    """Collates to floating tensors of the served weights' type, from which stages learn what they pass on."""
    collate = workload.collate or default_collate
    return lambda samples: mapped(lambda each: each.to(dtype) if each.is_floating_point() else each, collate(samples))


def _in_order(inputs: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(inputs), {}


def build_inference_model(
    run: Run,
    workload: Workload,
    split: Sequence[int] | None,
    place: RankCoordinates,
    device: torch.device,
    form: Form = _in_order,
) -> InferenceModel:
    """The run's model on this rank, its weights those of `workload.model`. Collective over the replica.

    Raises ConfigError for a recipe that finds nothing in this model to work on.
    """
    recipe, dtype = run.recipe, WEIGHTS[run.recipe.precision]
    model = workload.model.eval().requires_grad_(False)
    notes = prune_weights(model, recipe)
    if recipe.quantize == "int8":
        notes += check_linears(model, device)
        if isinstance(model, nn.Linear):
            model = nn.Sequential(model)  # a layer is replaced inside another
    model.to(dtype)
    # Replicas are whole models that need not talk: the layout of one of them.
    alone = replace(place, layout=place.layout.model_copy(update={"dp": 1}))
    cast = replace(workload, model=model, collate=_cast_batches(workload, dtype))
    parallel = parallelize(
        cast, tuple(split) if split else None, alone, device, loss=_no_loss, recipe=Recipe(), autocast_dtype=None
    )
    module = parallel.module
    if recipe.quantize == "int8":
        quantize_linears(module)
    if recipe.prune == "2:4":
        cut = ["prune 2:4: tensor-parallel shards are computed by dense kernels"]
        notes += compress_two_of_four(module, device) if place.layout.tp == 1 else cut
    if recipe.channels_last:
        _check_images(workload.model)
        set_channels_last(module)
    if recipe.compile:
        module.compile()
    fixed = parallel.schedule is not None or recipe.compile
    return InferenceModel(
        module=module,
        schedule=parallel.schedule,
        place=place,
        device=device,
        dtype=dtype,
        batch_size=place.layout.micro_batch_size * place.layout.accumulation_steps,
        channels_last=recipe.channels_last,
        fixed_size=fixed,
        form=form,
        notes=(*notes, *(["batches that are not full are padded to the batch size"] if fixed else [])),
    )


def _arrived(outputs: torch.Tensor) -> torch.Tensor:
    """A collective's result is waited for when somebody looks at it, and only one rank of a replica would."""
    wait = getattr(outputs, "wait", None)
    return wait() if wait is not None else outputs


def _no_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.new_zeros(())


def _check_images(model: nn.Module) -> None:
    if not any(parameter.dim() in CHANNELS_LAST for parameter in model.parameters()):
        raise ConfigError(
            "channels_last on a model without convolutions",
            "channels_last is an order of images and volumes",
            "leave channels_last out",
        )
