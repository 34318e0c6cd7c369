"""A prediction as trees: seconds that add up to the step, bytes that add up to the fullest rank's peak."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate, groupby, pairwise
from typing import Any

from hpc_accel.plan.cost import StepModel
from hpc_accel.study.layout import Layout
from hpc_accel.study.run import Run


@dataclass(frozen=True, kw_only=True)
class Node:
    """One part. The values of `parts`, where there are any, add up to its own."""

    name: str
    value: float
    parts: tuple[Node, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def lines(self, unit: str, factor: float, depth: int = 0, whole: float | None = None) -> Iterator[str]:
        """For people: value, share of the whole, name; parts below, indented."""
        whole = self.value if whole is None else whole
        share = f"{self.value / whole:6.1%}" if whole else ""
        yield f"{self.value * factor:12.4f} {unit} {share}  {'  ' * depth}{self.name}"
        for part in self.parts:
            yield from part.lines(unit, factor, depth + 1, whole)


def time_tree(run: Run, model: StepModel) -> Node:
    """Seconds of a step."""
    layout, resources = run.layout, run.resources
    parts = model.parts_s(layout, resources)
    stages = model.stage_times.of(layout, resources)
    each = layout.accumulation_steps / layout.pp
    split = layout.splits_backward and layout.schedule != "dualpipev"
    alone = model.stage_times.layers_alone_s(layout, resources)
    forward, backward, tensor = [], [], []
    for number, (stage, held) in enumerate(zip(stages.all, _layers_of(layout, model), strict=True)):
        name = f"stage {number}" if layout.num_stages > 1 else "one micro-batch after another"
        back = stage.input_s + stage.weight_s if split else stage.backward_s
        layers = range(*held)
        forward.append(_stage(name, each, stage.forward_s, model, layers, [alone[i][0] for i in layers]))
        backward.append(_stage(name, each, back, model, layers, [alone[i][1] for i in layers]))
        tensor.append(each * (stage.forward_comm_s + stage.backward_comm_s))
    inside = sum(tensor)
    exposed = (
        Node(name="inside passes (tensor-parallel, gathered parameters)", value=inside),
        Node(name="between replicas, not hidden", value=parts["communication_exposed"] - inside),
    )
    known = {"forward": tuple(forward), "backward": tuple(backward), "communication_exposed": exposed}
    nodes = tuple(Node(name=name, value=value, parts=known.get(name, ())) for name, value in parts.items())
    return Node(name="step", value=sum(parts.values()), parts=nodes)


def memory_tree(run: Run, model: StepModel) -> Node:
    """Bytes of the fullest rank."""
    rank, parts = model.memory_parts(run.layout)
    nodes = tuple(Node(name=name, value=value) for name, value in parts.items() if value)
    where = f"peak of pipeline rank {rank}" if run.layout.pp > 1 else "peak of a rank"
    return Node(name=where, value=sum(parts.values()), parts=nodes)


def _layers_of(layout: Layout, model: StepModel) -> list[tuple[int, int]]:
    """Per stage, its first layer and the one after its last."""
    return list(pairwise(accumulate(model.stage_times.split(layout), initial=0)))


def _stage(name: str, each: float, seconds: float, model: StepModel, layers: range, alone: list[float]) -> Node:
    """A stage's passes by runs of equal layers; what those take alone differs from the stage by what they share."""
    facts = model.facts.layers
    parts, start = [], 0
    for _, run in groupby(layers, key=lambda index: facts[index]):
        same = list(run)
        total = sum(alone[start : start + len(same)])
        start += len(same)
        times = f"{len(same)} x " if len(same) > 1 else ""
        parts.append(Node(name=f"{times}{facts[same[0]].name} alone", value=each * total))
    rest = each * (seconds - sum(alone))
    parts.append(Node(name="beside layers (schedule, messages counted apart, host hidden)", value=rest))
    return Node(name=name, value=each * seconds, parts=tuple(parts))
