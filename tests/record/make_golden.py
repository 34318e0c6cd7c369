"""Makes the records that the report's tests vary: one training and one inference run, really run, on this machine.

`python -m tests.record.make_golden`, after a key of the record changed. Names of this machine, and what else it did
meanwhile, are replaced.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hpc_accel import record
from hpc_accel.record import Summary
from hpc_accel.record.figure import Count, Fraction
from hpc_accel.runtime.disturbance import NO_CLOCK, NO_THROTTLES
from hpc_accel.study.infer_options import Generate, Infer
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec
from tests.mpirun import check, mpirun

GOLDEN = Path(__file__).parent / "golden"
RUNS = {
    "train": Run(
        study="golden",
        site="local",
        workload=WorkloadSpec(name="digits", entry="hpc_accel.workloads.builtin.digits:build", global_batch_size=64),
        layout=Layout(pp=2, schedule="1f1b", micro_batch_size=16, accumulation_steps=4),
        recipe=Recipe(),
        resources=Resources(ranks_per_node=2),
        measure=Measure(parity_tolerance=1e-5, steps=30, warmup_steps=5),
    ),
    "infer": Run(
        study="golden",
        site="local",
        workload=WorkloadSpec(name="lm", entry="hpc_accel.workloads.builtin.lm:build", global_batch_size=2),
        layout=Layout(micro_batch_size=2, accumulation_steps=1),
        recipe=Recipe(),
        resources=Resources(ranks_per_node=1),
        measure=Measure(parity_tolerance=1e-4, steps=10, warmup_steps=2, metric_samples=16),
        infer=Infer(
            arrival_rates_per_s=(20.0,),
            batch_size=2,
            num_requests=120,
            warmup_requests=10,
            deadline_ms=50,
            latency_limit_ms=100,
            generate=Generate(prompt=4, tokens=4),
        ),
    ),
}


def golden(mode: str) -> Summary:
    """The record of one of RUNS."""
    found = record.read(GOLDEN / f"{mode}.json")
    assert isinstance(found, Summary), found.reason
    return found


def make(mode: str, directory: Path) -> None:
    """Run it and keep its record."""
    run = RUNS[mode]
    (directory / "run.json").write_text(run.model_dump_json())
    command = f"from hpc_accel.cli import app; app(['{mode}', '{directory / 'run.json'}'])"
    check(mpirun(run.layout.num_ranks, ["-c", command], 300))
    found = record.read(directory / "summary.json", run.run_id)
    assert isinstance(found, Summary), found.reason
    versions = {key: found.provenance[key] for key in ("hpc_accel", "torch", "mpi4py", "python")}
    named = found.changed(hosts=("node01",), device_name="a CPU", provenance=versions)
    straggler = named.straggler.changed(host="node01" if named.straggler.host else "")
    alone = named.disturbance.changed(
        host="node01" if named.disturbance.host else "",
        others_share=Fraction.of(0.0),
        node_others_share=Fraction.of(0.0),
        stolen_share=Fraction.of(0.0),
        swapped_pages=Count.of(0),
        throttle_events=Count.missing(NO_THROTTLES),
        frequency_drop=Fraction.missing(NO_CLOCK),
    )
    quiet = tuple(text for text in named.warnings if not text.startswith("disturbed:"))
    record.write(GOLDEN / f"{mode}.json", named.changed(straggler=straggler, disturbance=alone, warnings=quiet))


if __name__ == "__main__":
    for each in RUNS:
        with tempfile.TemporaryDirectory() as name:
            make(each, Path(name))
