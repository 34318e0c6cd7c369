"""One run of a study as the report sees it: what was planned, what was resolved, and what it left behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_accel.record import Summary
from hpc_accel.report.load import safe_json


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One chosen run: what was planned, what was resolved, and its summary. `has_record` is false where the summary is
    only a stand-in, each figure of which is missing because the run left no record that can be used.
    """

    run_id: str
    workload: str
    label: str  # unique among the runs of its workload
    kind: str  # serial | data | tensor | pipeline | hybrid
    status: str
    remedy: str | None  # what to do when the run does not count
    directory: Path
    candidate: dict[str, Any]
    run: dict[str, Any]
    summary: Summary
    has_record: bool
    job: dict[str, Any]  # what its last attempt's script noted
    accounting: dict[str, Any]  # what Slurm's accounting says of its job
    problems: tuple[str, ...] = ()
    repeats: tuple[RunRecord, ...] = ()  # where this record stands for several of one configuration: each of them

    @property
    def counts(self) -> bool:
        """Whether the run may be ranked: completed, and its losses are those of the serial run."""
        return self.status == "completed"

    @property
    def precision(self) -> str:
        """The recipe's precision."""
        return safe_json.text(self.part("recipe"), "precision") or "?"

    @property
    def num_ranks(self) -> int:
        """dp x pp x tp, as planned."""
        return self.size("dp") * self.size("pp") * self.size("tp")

    @property
    def has_pipeline(self) -> bool:
        """Whether the layout has stages."""
        return self.size("pp") > 1

    @property
    def is_inference(self) -> bool:
        """Whether this is an inference run; training and inference are never compared."""
        return bool(self.part("infer"))

    @property
    def num_timed(self) -> int:
        """Timed steps; 0 where none were."""
        return self.summary.steps.num_timed if self.summary.steps else 0

    def size(self, key: str) -> int:
        """The layout's `dp`, `pp` or `tp`."""
        return max(1, int(safe_json.positive(self.part("layout"), key) or 1))

    def part(self, key: str) -> dict[str, Any]:
        """`layout`, `recipe`, `resources` or `infer`: as run, else as planned."""
        return safe_json.mapping(self.run, key) or safe_json.mapping(self.candidate, key)
