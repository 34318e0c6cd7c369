"""The table of runs as OpenMetrics text (version 1.0), which Prometheus and node_exporter's textfile collector read.

Each figure is a gauge in base units (seconds, joules, bytes, ratios), with the run in its labels. What was not measured
has no sample.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpc_accel.report.judge.cells import Row
from hpc_accel.report.load.study_records import StudyRecords


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A metric: its name without the prefix, its unit (a suffix of the name), and how it follows from its column."""

    column: str
    name: str
    unit: str
    help: str
    factor: float = 1.0


FAMILIES = (
    Family(column="step_time_ms", name="step_time", unit="seconds", help="Median time of a step.", factor=1e-3),
    Family(column="step_time_ci_low_ms", name="step_time_low", unit="seconds", help="Its 95 % interval.", factor=1e-3),
    Family(
        column="step_time_ci_high_ms", name="step_time_high", unit="seconds", help="Its 95 % interval.", factor=1e-3
    ),
    Family(
        column="throughput_samples_per_s", name="throughput_samples_per_second", unit="", help="Samples per second."
    ),
    Family(column="speed_up", name="speed_up", unit="ratio", help="Over the fastest serial run."),
    Family(column="efficiency", name="efficiency", unit="ratio", help="Speed-up over ranks."),
    Family(column="comm_exposed_ms", name="comm_exposed", unit="seconds", help="Waiting for others.", factor=1e-3),
    Family(column="bubble_fraction", name="bubble", unit="ratio", help="Share in which pipeline stages wait."),
    Family(column="mfu", name="mfu", unit="ratio", help="Model FLOP utilisation."),
    Family(column="peak_memory_bytes", name="peak_memory", unit="bytes", help="Of the largest rank."),
    Family(column="latency_p50_ms", name="latency_p50", unit="seconds", help="Of inference.", factor=1e-3),
    Family(column="latency_p99_ms", name="latency_p99", unit="seconds", help="Of inference.", factor=1e-3),
    Family(column="energy_j", name="energy", unit="joules", help="Gross energy of the timed steps."),
    Family(column="energy_per_sample_j", name="energy_per_sample", unit="joules", help="Gross energy of a sample."),
    Family(column="final_loss", name="final_loss", unit="", help="Loss of the last step."),
    Family(column="metric_value", name="metric", unit="", help="The workload's metric on held-out samples."),
    Family(column="parity_max_rel_err", name="parity_error", unit="ratio", help="Distance from the serial run."),
    Family(column="prediction_error", name="prediction_error", unit="ratio", help="Predicted over measured, less 1."),
)
LABELS = ("workload", "label", "run_id", "status", "precision", "backend", "device", "mode", "energy_scope", "metric")


def render(records: StudyRecords, rows: list[Row]) -> str:
    """The whole exposition, which ends with `# EOF`."""
    common = {"study": records.study, "site": records.site}
    lines: list[str] = []
    for family in FAMILIES:
        samples = [(row, value) for row in rows if isinstance(value := row[family.column].value, int | float)]
        if not samples:
            continue
        name = "_".join(filter(None, ("hpc_accel", family.name, family.unit)))
        lines.append(f"# TYPE {name} gauge")
        lines += [f"# UNIT {name} {family.unit}"] if family.unit else []
        lines.append(f"# HELP {name} {_escaped(family.help)}")
        lines += [f"{name}{_labels(row, common)} {float(value) * family.factor!r}" for row, value in samples]
    return "\n".join([*lines, "# EOF", ""])


def _labels(row: Row, common: dict[str, str]) -> str:
    found = common | {name: str(row[name].value) for name in LABELS if row[name].value is not None}
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in found.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
