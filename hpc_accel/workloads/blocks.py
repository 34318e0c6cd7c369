"""The parts a model is naturally made of: what is recomputed, sharded and cut into stages as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from hpc_accel.workloads.chain import is_sequence, layers_of


def blocks_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules of the model's blocks, in the order they are registered.

    Of a Sequential its children; of another model the items of its outermost lists (a transformer's layers), or its
    children if it has no list. Children without parameters count: they run, and cost memory.
    """
    if is_sequence(model):
        return layers_of(model)
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        inside = any(f"{name}.".startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) and name and not inside:
            found += [(f"{name}.{key}", child) for key, child in module.named_children()]
    return found or list(model.named_children()) or [("", model)]


def blocks_with_parameters(model: nn.Module) -> list[nn.Module]:
    """The blocks that have parameters, each once, also one that the model runs several times."""
    blocks = {id(block): block for _, block in blocks_of(model)}
    return [block for block in blocks.values() if any(True for _ in block.parameters())]


def parameters_of_blocks(model: nn.Module) -> list[dict[str, nn.Parameter]]:
    """The trainable parameters of each block; those outside all blocks count to the one registered before them.

    What is registered before the first block (a stem, an embedding) counts to the first; what is shared, to the first
    that has it.
    """
    found: list[dict[str, nn.Parameter]] = [{} for _ in blocks_of(model)]
    seen: set[int] = set()
    for block, name, parameter in _owned(model):
        if parameter.requires_grad and id(parameter) not in seen:
            found[block][name] = parameter
        seen.add(id(parameter))
    return found


def tied_blocks(model: nn.Module) -> list[tuple[int, int]]:
    """First and last block that share a trainable parameter, for each that blocks share."""
    users: dict[int, list[int]] = {}
    for block, _, parameter in _owned(model):
        if parameter.requires_grad:
            users.setdefault(id(parameter), []).append(block)
    return sorted({(blocks[0], blocks[-1]) for blocks in users.values() if blocks[0] != blocks[-1]})


def _owned(model: nn.Module) -> Iterator[tuple[int, str, nn.Parameter]]:
    """Each parameter under each of its names, with the block it counts to."""
    names, current = [name for name, _ in blocks_of(model)], 0
    for name, parameter in model.named_parameters(remove_duplicate=False):
        inside = [index for index, block in enumerate(names) if name.startswith(f"{block}.") or not block]
        current = inside[0] if inside else current
        yield current, name, parameter
