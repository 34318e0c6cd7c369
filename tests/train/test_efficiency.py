"""What follows from a run's figures, and what warns of them: warm-up, outliers, short windows, targets, peaks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hpc_accel.mpi.timeline import CommEvent
from hpc_accel.record.energy import Energy
from hpc_accel.record.figure import Count, Fraction, Seconds
from hpc_accel.record.measured import with_shares
from hpc_accel.record.parts import Disturbance, Outliers, Steps, Straggler
from hpc_accel.runtime import timing_warnings
from hpc_accel.runtime.in_flight import StepInFlight, StepResult
from hpc_accel.runtime.phase_timer import PhaseSpan
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec
from hpc_accel.train import efficiency, utilisation
from hpc_accel.train.step_log import StepLog
from hpc_accel.train.step_table import StepTable
from hpc_accel.workloads.workload import Workload
from tests.records import figures

QUIET = Disturbance.missing("nobody looked")


def make_run(ranks: int = 2, precision: str = "fp32", **measure) -> Run:
    return Run(
        study="s",
        site="local",
        workload=WorkloadSpec(name="w", entry="a:b", global_batch_size=8),
        layout=Layout(dp=ranks, micro_batch_size=8 // ranks, accumulation_steps=1),
        recipe=Recipe(precision=precision),
        resources=Resources(ranks_per_node=ranks),
        measure=Measure(**measure),
    )


def steps(**changes) -> Steps:
    whole = {
        "num_warmup": 0,
        "num_warmup_detected": Count.of(0),
        "num_asked": 4,
        "num_timed": 4,
        "global_batch_size": 8,
        "samples_per_epoch": Count.of(80),
        "samples_dropped_per_epoch": Count.of(0),
        "tokens_per_sample": Count.of(16),
        "outliers": Outliers(count=0),
    }
    return Steps(**{**whole, **changes})


def measured(energy_j: float, window_s: float) -> Energy:
    known = {"energy_j": energy_j, "window_s": window_s, "scope": "node", "method": "counter", "reason": ""}
    return Energy.missing("not looked for").changed(**known)


def test_warm_up_is_found_beyond_what_was_counted():
    times = [90.0, 40.0, 30.0, 22.0] + [20.0, 20.1, 19.9, 20.2] * 6
    detected = timing_warnings.detected_warmup(times, is_continued=False)
    assert (detected.value, detected.reason) == (4, "")
    facts = steps(num_warmup=2, num_warmup_detected=detected)
    [said] = timing_warnings.warnings(make_run(), facts, Energy.missing("no sensor"), QUIET)
    assert "set measure.warmup_steps to 4" in said
    assert timing_warnings.warnings(make_run(), facts.changed(num_warmup=4), Energy.missing("no sensor"), QUIET) == ()


@pytest.mark.parametrize(
    ("layout", "excess", "num_timed", "is_told"),
    [
        ({"dp": 2}, 1.1, 20, True),
        ({"dp": 2}, 0.3, 20, False),
        ({"dp": 2}, 1.1, 9, False),
        ({"pp": 2, "schedule": "1f1b"}, 1.1, 20, False),
    ],
)
def test_a_rank_that_computes_longer_at_the_same_work_is_named(layout, excess, num_timed, is_told):
    run = make_run()
    run = run.model_copy(update={"layout": Layout(micro_batch_size=1, accumulation_steps=1, **layout)})
    slow = Straggler.missing("not looked at").changed(rank=Count.of(1), host="n2", excess=Fraction.of(excess))
    told = timing_warnings.slow_rank(run, slow, num_timed)
    assert [text.startswith("slow rank: rank 1 on n2 computes 2.1 times") for text in told] == [True] * is_told


@pytest.mark.parametrize(
    ("times", "continued", "reason"),
    [
        ([1.0] * 5, False, "too few"),
        ([1.0] * 50, True, "was continued"),
        ([9, 8, 9, 8, 9, 1, 1, 1, 1, 1], False, "never"),
    ],
)
def test_an_unknown_warm_up_says_why(times, continued, reason):
    detected = timing_warnings.detected_warmup(times, is_continued=continued)
    assert detected.value is None
    assert reason in detected.reason


def test_outliers_are_counted_and_located():
    times = [10.0, 10.1, 9.9, 10.05, 55.0, 10.0, 9.95]
    found = timing_warnings.found_outliers(list(range(5, 12)), times)
    assert (found.count, found.steps) == (1, (9,))


@pytest.mark.parametrize(
    ("measure", "words"), [({}, "set measure.max_steps"), ({"max_steps": 40}, "but 40 steps were")]
)
def test_a_short_window_says_what_to_do(measure, words):
    energy = measured(5.0, 0.5).changed(resolution_s=Seconds.of(0.1), resolution_warning=True)
    [said] = timing_warnings.warnings(make_run(**measure), steps(), energy, QUIET)
    assert "want 10 s" in said
    assert words in said


def test_unknown_energy_makes_everything_unknown():
    found = with_shares(Energy.missing("no sensor", "find one").changed(window_s=2.0), steps())
    for figure in figures(found).values():
        assert (figure.value, figure.reason, figure.remedy) == (None, "no sensor", "find one")


def test_what_follows_from_energy_is_per_step_sample_token_and_epoch():
    found = with_shares(measured(40.0, 2.0), steps())
    per = [found.per_step_j, found.per_sample_j, found.per_token_j, found.per_epoch_j, found.energy_delay_product_js]
    assert [figure.value for figure in per] == [10.0, 1.25, 1.25 / 16, 100.0, 5.0]
    without = with_shares(measured(40.0, 2.0), steps(tokens_per_sample=Count.missing(efficiency.NO_TOKENS)))
    assert (without.per_token_j.value, without.per_token_j.reason) == (None, efficiency.NO_TOKENS)


def test_only_sequences_of_ids_have_tokens():
    def tokens(samples, **options):
        data = [(sample, 0) for sample in samples]
        workload = Workload(model=torch.nn.Identity(), loss=torch.nn.functional.mse_loss, dataset=data, **options)
        return efficiency.tokens_per_sample(workload)

    assert tokens([torch.zeros(16, dtype=torch.int64)]) == 16
    assert tokens([torch.zeros(16)]) is None
    assert tokens([torch.zeros(3, 8, 8, dtype=torch.int32)]) is None
    ids = [torch.zeros(length, dtype=torch.int64) for length in (16, 9)]
    assert tokens(ids, collate=lambda samples: (samples[0][0][None], torch.zeros(1))) is None


def test_the_target_is_the_first_loss_at_or_below_it():
    energy = with_shares(measured(40.0, 2.0), steps())
    found = efficiency.target(make_run(target_loss=0.5), [2.0, 0.5, 0.7], energy, num_steps=4)
    assert (found.num_steps.value, found.time_s.value, found.energy_j.value) == (2, 1.0, 20.0)
    missed = efficiency.target(make_run(target_loss=0.1), [2.0, 0.5], energy, num_steps=4)
    assert missed.energy_j.value is None
    assert "lowest loss is 0.5" in missed.energy_j.reason
    begun = efficiency.target(make_run(target_loss=0.5), [0.4], energy, 4, started_from="step 7 of x")
    assert begun.num_steps.reason == "the steps before step 7 of x are in another run's record"
    assert "names no measure.target_loss" in efficiency.target(make_run(), [1.0], energy, 4).loss.reason


def kinds(**more):
    level = {"ranks": 2, "matmul_flops_per_s": {"fp32": 5e9, "bf16": None}}
    return {"device": "cpu", "matmul_flops_per_s": {"fp32": 8e9, "bf16": None}, "levels": [level], **more}


@pytest.mark.parametrize(
    ("run", "hardware", "peak", "reason"),
    [
        (make_run(2), {"site": "local", "node_kinds": [kinds()]}, 5e9, ""),
        (make_run(1), {"site": "local", "node_kinds": [kinds()]}, 8e9, ""),
        (make_run(2), {"site": "local", "node_kinds": [kinds(), kinds(levels=[])]}, None, "2 ranks of a node"),
        (make_run(2, "bf16"), {"site": "local", "node_kinds": [kinds()]}, None, "no probed bf16 peak"),
        (make_run(2), {"site": "elsewhere", "node_kinds": [kinds()]}, None, "of site 'elsewhere'"),
        (make_run(2), {}, None, "no hardware.json"),
        (make_run(2), {"site": "local", "node_kinds": [kinds(device="cuda")]}, None, "no cpu node"),
    ],
)
def test_the_peak_is_that_of_the_runs_own_part_of_the_machine(run, hardware, peak, reason):
    found, why = utilisation.probed_peak(run, hardware, "cpu")
    assert found == peak
    assert reason in why


def test_without_flops_there_is_no_utilisation(tmp_path):
    found = utilisation.flops_facts(make_run(), tmp_path, "cpu", None, "torch counts none", 5.0)
    assert (found.per_step.value, found.mfu.value, found.mfu.reason) == (None, None, "torch counts none")


def test_hardware_is_looked_for_beside_the_studys_runs(tmp_path: Path):
    (tmp_path / "hardware.json").write_text(json.dumps({"site": "local", "node_kinds": [kinds()]}))
    found = utilisation.flops_facts(make_run(), tmp_path / "runs" / "r", "cpu", 10**7, "", 2.0)
    assert found.mfu.value == pytest.approx(1e7 / 2e-3 / 1e10)


def through(step: PhaseSpan, phases: list[PhaseSpan]) -> StepInFlight:
    """A step that was launched and is done."""
    return StepInFlight(lambda: (step, phases), None)


def event(start: int, end: int, waited: tuple[tuple[int, int], ...], op: str = "allreduce") -> CommEvent:
    return CommEvent(op, "g", 4, None, start, start, end, waited, False)


def test_every_moment_of_a_window_is_one_thing():
    early = event(3, 8, ((4, 8),))
    rows = StepTable(make_run(), 0, [], lambda: [early, *events])
    phases = [PhaseSpan("forward", 10, 50), PhaseSpan("backward", 50, 90)]
    events = [event(40, 70, ((60, 70),)), event(20, 30, ((25, 30),), op="recv")]
    rows.add(0, True, through(PhaseSpan("step", 0, 9), [PhaseSpan("forward", 0, 9)]))
    rows.add(1, False, through(PhaseSpan("step", 10, 95), phases))
    pieces = {}
    for piece in rows.activity((8, 100)):
        pieces.setdefault(piece.name, []).append((piece.start_ns, piece.end_ns))
    assert pieces == {
        "compute": [(10, 25), (30, 60), (70, 90)],
        "comm_exposed": [(60, 70)],
        "pipeline_wait": [(25, 30)],
        "idle": [(8, 10), (90, 100)],
    }
    # Each step has the events that were enqueued before the next one began.
    assert [row["comm_overlapped_ns"] for row in rows.all()] == [1, 20 + 5]
    assert [row["comm_exposed_ns"] for row in rows.all()] == [4, 10]


def test_events_are_asked_for_when_the_steps_are_through():
    """A GPU's last step is still under way when the host has launched it, and its events have no end yet."""
    order = []
    step = PhaseSpan("step", 10, 100)
    rows = StepTable(make_run(), 0, [], lambda: order.append("events") or [event(60, 90, ((70, 90),))])
    rows.add(0, False, StepInFlight(lambda: order.append("step") or (step, [PhaseSpan("backward", 10, 100)]), None))
    assert [row["comm_exposed_ns"] for row in rows.all()] == [20]
    assert order == ["step", "events"]


def test_without_a_timeline_nothing_is_known_of_communication():
    rows = StepTable(make_run(), 0, [])
    for step in range(200):  # more than are put in order together
        rows.add(step, False, through(PhaseSpan("step", step, step + 1), []))
    assert [row["step"] for row in rows.all()] == list(range(200))
    assert {row["comm_exposed_ns"] for row in rows.all()} == {None}


def test_kept_steps_come_back_as_they_were():
    waited = CommEvent("allreduce", "dp", 4096, None, 12, 13, 50, ((20, 30), (40, 50)), False)
    sent = CommEvent("send", "pp", 7, 1, 60, 61, 70, (), True)
    phases = [PhaseSpan("forward", 10, 40), PhaseSpan("backward", 41, 90)]
    steps = [
        (0, True, StepResult(step=PhaseSpan("step", 10, 95), phases=phases, loss=None), [waited, sent]),
        (1, False, StepResult(step=PhaseSpan("step", 100, 195), phases=[], loss=2.5), []),
        (2, False, StepResult(step=PhaseSpan("step", 200, 295), phases=phases, loss=0.0), None),
    ]
    kept = StepLog()
    for step in steps:
        kept.add(*step)
    assert list(kept) == steps
    assert list(kept.recent) == steps
    assert list(kept.after(1)) == list(kept.since(100)) == list(kept.since(11)) == steps[1:]
    assert list(kept.after(3)) == list(kept.since(201)) == []
    kept.add(3, False, StepResult(step=PhaseSpan("step", 300, 301), phases=[], loss=math.nan), [])
    assert math.isnan(list(kept)[3][2].loss)
    assert len(kept) == 4


def test_a_kept_step_is_small():
    events = [CommEvent("allreduce", "dp", 4096, None, 12, 13, 50, ((20, 30),), True)] * 3
    phases = [PhaseSpan(name, 10, 40) for name in ("data", "forward", "backward", "optimizer")]
    kept = StepLog()
    for number in range(1000):
        kept.add(number, False, StepResult(step=PhaseSpan("step", 10, 95), phases=phases, loss=1.0), events)
    assert len(kept._numbers) * kept._numbers.itemsize + len(kept._figures) * 8 < 500_000
