"""A twin of a model: all that stands before and after its alike blocks, and fewer of those.

Blocks are alike that have the same layers, shapes and cuts, one after the other in a list or a Sequential: of a
transformer all, of linear layers with activations between them each pair. Dropped are the last ones, by taking them out
of that list, so that what is left keeps its names and its first weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from hpc_accel.workloads.blocks import blocks_of
from hpc_accel.workloads.tensor_plan import planned
from hpc_accel.workloads.workload import Workload


@dataclass(frozen=True, kw_only=True)
class AlikeBlocks:
    """The alike blocks of a model: in `parent`, each of the children named in one of `blocks`."""

    parent: str
    blocks: tuple[tuple[str, ...], ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.blocks)


def alike_blocks(workload: Workload) -> AlikeBlocks | None:
    """Those with the most parameters; None where fewer than two are alike."""
    model = workload.model
    cuts = {name: str(cut) for name, cut in planned(model, workload.tensor_plan).items()}
    found: list[tuple[int, AlikeBlocks]] = []
    for parent, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        names = list(module._modules)
        children = [child for child in module._modules.values() if child is not None]
        looks = [
            _look(child, f"{parent}.{name}".lstrip("."), cuts) for name, child in zip(names, children, strict=True)
        ]
        start, period, count = _longest_repeat(looks)
        repeated = AlikeBlocks(
            parent=parent,
            blocks=tuple(tuple(names[start + index * period :][:period]) for index in range(count)),
        )
        size = sum(each.numel() for child in children[start:][: period * count] for each in child.parameters())
        if count > 1 and size:
            found.append((size, repeated))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def keep_blocks(workload: Workload, num_blocks: int) -> None:
    """Leave the first `num_blocks` alike blocks of the workload's model, which is changed."""
    alike = alike_blocks(workload)
    assert alike is not None and 1 <= num_blocks <= alike.count, (alike, num_blocks)
    parent = workload.model.get_submodule(alike.parent)
    for names in alike.blocks[num_blocks:]:
        for name in names:
            del parent._modules[name]


def twin_split(workload: Workload, num_blocks: int, num_stages: int, split: tuple[int, ...]) -> tuple[int, ...]:
    """Layers of each stage of the twin of a whole model that is cut into `split`: its blocks shared out evenly.

    The first stage has what stands before the blocks too, the last what follows. Where all blocks are inside of one
    layer, no layer is dropped. Raises ValueError for fewer blocks than stages.
    """
    alike = alike_blocks(workload)
    assert alike is not None
    layers = [name for name, _ in blocks_of(workload.model)]
    own = [[f"{alike.parent}.{name}".lstrip(".") for name in names] for names in alike.blocks]
    if own[0][0] not in layers:
        return split
    if num_blocks < num_stages:
        raise ValueError(f"{num_blocks} blocks on {num_stages} stages: each has at least one")
    each, more = divmod(num_blocks, num_stages)
    sizes = [(each + (stage < more)) * len(own[0]) for stage in range(num_stages)]
    sizes[0] += layers.index(own[0][0])
    sizes[-1] += len(layers) - layers.index(own[-1][-1]) - 1
    return tuple(sizes)


def bytes_of_blocks(workload: Workload) -> tuple[int, int]:
    """Bytes of all weights, and of those in one alike block (0 where there are none)."""
    model, alike = workload.model, alike_blocks(workload)
    if alike is None:
        return _bytes(model), 0
    parent = model.get_submodule(alike.parent)
    return _bytes(model), sum(_bytes(parent.get_submodule(name)) for name in alike.blocks[0])


def _bytes(module: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in [*module.parameters(), *module.buffers()])


def _look(module: nn.Module, name: str, cuts: Mapping[str, str]) -> tuple[object, ...]:
    """What two alike modules agree in."""
    shapes = [
        (key, tuple(each.shape), each.dtype) for key, each in [*module.named_parameters(), *module.named_buffers()]
    ]
    own_cuts = [(key.removeprefix(name), cut) for key, cut in cuts.items() if f"{key}.".startswith(f"{name}.")]
    return (repr(module), tuple(shapes), tuple(own_cuts))


def _longest_repeat(looks: Sequence[tuple[object, ...]]) -> tuple[int, int, int]:
    """Start, period and count of the repetition that covers the most; of equal ones that of the shortest period."""
    best = (0, 1, 1)
    for period in range(1, len(looks) // 2 + 1):
        for start in range(len(looks) - 2 * period + 1):
            count = 1
            while looks[start + count * period :][:period] == looks[start:][:period]:
                count += 1
            if count > 1 and count * period > best[1] * best[2]:
                best = (start, period, count)
    return best
