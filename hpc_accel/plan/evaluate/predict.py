"""What the planner says of published rows: step time and peak memory, or why it says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpc_accel.plan.calibration import Calibration, MeasuredPass, layer_digest
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.evaluate.case import Case
from hpc_accel.plan.evaluate.mapping import Mapping
from hpc_accel.plan.measured_passes import Key
from hpc_accel.plan.transformer import transformer_facts
from hpc_accel.probe.hardware import Hardware, Link


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Of one case; None where `reason` says why."""

    step_time_s: float | None
    peak_memory_bytes: float | None
    allocated_bytes: float | None = None
    """Held between steps."""
    reason: str | None = None


class Predictor:
    """Models are shared by the rows that have the same sizes and software."""

    def __init__(self, mapping: Mapping, hardware: Hardware) -> None:
        self.mapping = mapping
        self.hardware = _with_network(hardware, mapping.inter_node)
        self._models: dict[tuple[object, ...], StepModel] = {}

    def model_of(self, case: Case) -> StepModel | None:
        """None where the planner knows no such layout."""
        if case.layout is None:
            return None
        key = (case.sizes, case.variant, case.recompute, case.layout.pp > 1)
        if key not in self._models:
            program = self.mapping.program_of(case.variant)
            facts = transformer_facts(case.sizes, program.costs, shares_rank=case.layout.pp == 1)
            software = program.software_of(case.recompute)
            self._models[key] = StepModel(facts, self.hardware, program.precision, software)
        return self._models[key]

    def scaled_s(self, case: Case, ratio: float) -> float | None:
        """Step time of `case` if its block took `ratio` times as long as predicted; None where nothing is predicted."""
        model = self.model_of(case)
        if model is None or case.layout is None:
            return None
        measured = StepModel(
            model.facts,
            self.hardware,
            model.precision,
            model.software,
            calibration=calibration_of(model, case, ratio),
        )
        return sum(measured.parts_s(case.layout, case.resources).values())

    def answer(self, case: Case, ratio: float | None = None) -> Answer:
        """Time and memory of `case`, its block taking `ratio` times as long as predicted."""
        model = self.model_of(case)
        if model is None or case.layout is None:
            return Answer(step_time_s=None, peak_memory_bytes=None, reason=case.refused)
        if case.context_parallel > 1:
            why = f"context parallelism ({case.context_parallel} ranks) is not modelled"
            return Answer(step_time_s=None, peak_memory_bytes=None, reason=why)
        last = case.layout.pp - 1 if self.mapping.rank == "last" else None
        memory = float(model.peak_memory_bytes(case.layout, last))
        held = model.held_bytes(case.layout, last)
        reason = case.refused or model.unpredictable(case.layout, case.resources, "cuda")
        if reason is not None:
            return Answer(step_time_s=None, peak_memory_bytes=memory, allocated_bytes=held, reason=reason)
        if ratio is None:
            time_s: float | None = sum(model.parts_s(case.layout, case.resources).values())
        else:
            time_s = self.scaled_s(case, ratio)
        return Answer(step_time_s=time_s, peak_memory_bytes=memory, allocated_bytes=held)


def calibration_of(model: StepModel, case: Case, ratio: float) -> Calibration:
    """A calibration that holds `case`'s block alone, as a probe would have measured it."""
    assert case.layout is not None
    layer, layout = model.facts.layers[1], case.layout
    key = Key(layout.tp, layout.micro_batch_size, layout.sequence_parallel)
    per_node = case.resources.ranks_per_node
    alone = model.stage_times.layer_costs.alone_s(layer, layout, per_node, model.kind.level(per_node), key)
    measured = MeasuredPass(
        layer=layer_digest(layer),
        name=layer.name,
        precision=model.precision,
        recompute=model.software.recompute,
        tp=layout.tp,
        micro_batch_size=layout.micro_batch_size,
        sequence_parallel=layout.sequence_parallel,
        forward_s=ratio * alone[0],
        backward_s=ratio * alone[1],
    )
    return Calibration(passes=(measured,))


def _with_network(hardware: Hardware, measured: dict[str, Any]) -> Hardware:
    """`hardware` with what a mapping file says of the link between nodes."""
    link = hardware.network.inter_node
    if not measured or link is None:
        return hardware
    link = Link.model_validate({**link.model_dump(), **measured})
    return hardware.model_copy(update={"network": hardware.network.model_copy(update={"inter_node": link})})
