"""Rows of a published table as cases: sizes, layout and ranks from the fields that its mapping file names."""

from __future__ import annotations

import math
from typing import Any

from hpc_accel.plan.evaluate.case import Case
from hpc_accel.plan.evaluate.mapping import Mapping, Row
from hpc_accel.plan.transformer import TransformerSizes
from hpc_accel.study.layout import Layout, Schedule
from hpc_accel.study.run import Resources


def cases_of(rows: list[Row], mapping: Mapping) -> list[Case]:
    """One case a row."""
    return [_case(number, _with_stages(mapping.values_of(row)), mapping) for number, row in enumerate(rows, start=1)]


def _with_stages(values: dict[str, Any]) -> dict[str, Any]:
    """`stages_per_rank` also where the table says layers of a virtual stage instead."""
    each, pp = values.get("layers_per_virtual_stage"), int(values.get("pp", 1))
    return values | {"stages_per_rank": int(values["layers"]) // (pp * int(each))} if each and pp > 1 else values


def _case(number: int, values: dict[str, Any], mapping: Mapping) -> Case:
    told = next((each for each in mapping.refused if each.matches(values)), None)
    if told is not None and not told.memory:
        values = {"layers": 1, "sequence": 1} | values
    sizes = _sizes(values)
    chunks = int(values.get("stages_per_rank") or 1)
    values["pipeline"] = "none" if int(values.get("pp", 1)) == 1 else "interleaved" if chunks > 1 else "plain"
    layout, refused = _layout(values, sizes)
    if told is not None:
        layout, refused = layout if told.memory else None, refused or told.why
    gpus, per_node = int(values["gpus"]), int(values.get("gpus_per_node", 8))
    ranks_per_node = min(gpus, per_node)
    step_time_s = _step_time_s(values, sizes)
    unscored = [each for each in mapping.unscored if float(values.get(each.field) or 0) > each.above]
    return Case(
        number=number,
        sizes=sizes,
        layout=layout,
        refused=refused,
        resources=Resources(
            num_nodes=max(1, gpus // ranks_per_node), ranks_per_node=ranks_per_node, gpus_per_node=ranks_per_node
        ),
        recompute=values.get("recompute", "none"),
        context_parallel=int(values.get("context_parallel", 1)),
        ran=bool(values.get("ran", True)),
        step_time_s=step_time_s,
        allocated_bytes=values.get("allocated_bytes"),
        peak_memory_bytes=values.get("peak_memory_bytes"),
        group=tuple(values.get(name) for name in mapping.group),
        fold=tuple(values.get(name) for name in mapping.fold or mapping.group),
        block=tuple(values.get(name) for name in mapping.block),
        variant=mapping.variant_of(values),
        arguments=tuple(values.get(name) for name in mapping.arguments),
        scored=not unscored,
    )


def _sizes(values: dict[str, Any]) -> TransformerSizes:
    hidden, tp = int(values["hidden"]), int(values.get("tp", 1))
    vocabulary = int(values["vocabulary"])
    multiple = int(values.get("vocabulary_multiple", 1)) * (tp if "vocabulary_multiple" in values else 1)
    return TransformerSizes(
        layers=int(values["layers"]),
        hidden=hidden,
        heads=int(values["heads"]),
        kv_heads=int(values["kv_heads"]) if values.get("kv_heads") else None,
        feed_forward=int(values.get("feed_forward") or 4 * hidden),
        vocabulary=math.ceil(vocabulary / multiple) * multiple,
        sequence=int(values["sequence"]),
        gated=bool(values.get("gated", False)),
        biases=bool(values.get("biases", True)),
        dropout=bool(values.get("dropout", True)),
        tied=bool(values.get("tied", True)),
        head_parameters=int(values.get("head_parameters", 0)),
        positions=int(values["sequence"]) if values.get("learned_positions") else 0,
    )


def _layout(values: dict[str, Any], sizes: TransformerSizes) -> tuple[Layout | None, str | None]:
    """The layout, or why there is none that the planner knows."""
    gpus, tp, pp = int(values["gpus"]), int(values.get("tp", 1)), int(values.get("pp", 1))
    dp = int(values.get("dp") or max(1, gpus // (tp * pp * int(values.get("context_parallel", 1)))))
    micro = int(values["micro_batch"])
    accumulation, rest = divmod(int(values["global_batch"]), dp * micro)
    chunks = int(values.get("stages_per_rank") or 1)
    if rest or accumulation == 0:
        return None, f"global batch {values['global_batch']} is not a multiple of dp {dp} x micro-batch {micro}"
    if pp * chunks > sizes.layers:
        return None, f"{pp * chunks} stages of {sizes.layers} blocks: some would be empty"
    if sizes.heads % tp:
        return None, f"tp {tp} does not divide {sizes.heads} heads"
    layout = Layout(
        dp=dp,
        pp=pp,
        tp=tp,
        shard=values.get("shard", "none") if dp > 1 else "none",
        schedule=_schedule(pp, chunks, accumulation),
        stages_per_rank=chunks,
        micro_batch_size=micro,
        accumulation_steps=accumulation,
        split=_split(str(values.get("split", "equal")), sizes, pp * chunks),
        sequence_parallel=bool(values.get("sequence_parallel", False)) and tp > 1,
    )
    return layout, None


def _schedule(pp: int, chunks: int, num_micro_batches: int) -> Schedule | None:
    if pp == 1:
        return None
    if chunks > 1:
        return "interleaved_1f1b"
    # With fewer micro-batches than stages 1F1B is all forward passes, then all backward ones.
    return "1f1b" if num_micro_batches >= pp else "gpipe"


def _split(way: str, sizes: TransformerSizes, stages: int) -> Any:
    """Layers per stage, the embedding in the first and the head in the last.

    "equal" deals out blocks alone. "thresholds" fills a stage until the FLOPs of weights pass its share of the whole,
    as nanotron does.
    """
    layers, h = sizes.layers, sizes.hidden
    if stages == 1:
        return "auto"
    shares = [layers // stages + (1 if stage < layers % stages else 0) for stage in range(stages)]
    if way == "thresholds":
        block = h * h * 4 + (3 if sizes.gated else 2) * h * sizes.feed_forward
        whole = layers * block + sizes.vocabulary * h
        filled, stage = [0] * stages, 0
        for number in range(1, layers + 1):
            if stage < stages - 1 and number * block > whole * (stage + 1) / stages:
                stage += 1
            filled[stage] += 1
        shares = filled if all(filled[1:-1]) else shares
    return (shares[0] + 1, *shares[1:-1], shares[-1] + 1)


def _step_time_s(values: dict[str, Any], sizes: TransformerSizes) -> float | None:
    if not values.get("ran", True):
        return None
    if values.get("step_time_s"):
        return float(values["step_time_s"])
    if values.get("step_time_ms"):
        return float(values["step_time_ms"]) / 1e3
    if values.get("tokens_per_s"):
        return int(values["global_batch"]) * sizes.sequence / float(values["tokens_per_s"])
    return None
