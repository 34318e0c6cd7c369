"""The parts a model is naturally made of: what is recomputed, sharded and cut into stages as a whole."""

from __future__ import annotations

from torch import nn


def blocks_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules of the model's blocks, in the order they are registered.

    Of a Sequential its children; of another model the items of its outermost lists (a transformer's layers), or its
    children if it has no list. Children without parameters count: they run, and cost memory.
    """
    if isinstance(model, nn.Sequential):
        return list(model.named_children())
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        inside = any(name == outer or name.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) and name and not inside:
            found += [(f"{name}.{key}", child) for key, child in module.named_children()]
    return found or list(model.named_children()) or [("", model)]


def parameters_of_blocks(model: nn.Module) -> list[dict[str, nn.Parameter]]:
    """The trainable parameters of each block; those outside all blocks count to the one registered before them.

    What is registered before the first block (a stem, an embedding) counts to the first.
    """
    blocks = blocks_of(model)
    found: list[dict[str, nn.Parameter]] = [{} for _ in blocks]
    current = 0
    for name, parameter in model.named_parameters():
        inside = [index for index, (block, _) in enumerate(blocks) if name.startswith(f"{block}.") or not block]
        current = inside[0] if inside else current
        if parameter.requires_grad:
            found[current][name] = parameter
    return found
