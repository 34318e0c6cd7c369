"""What `probe` measured, as the planner reads it: hardware.json with every number checked and its unit in its name.

Not measured is None with a reason beside it. A file a person writes for a cluster not yet probed has the same shape.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hpc_accel.errors import ConfigError
from hpc_accel.study.recipe import Precision
from hpc_accel.study.run import Backend

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, strict=True)]
Rates = dict[Precision, Positive | None]


class Facts(BaseModel):
    """Frozen, and strict about unknown keys, so that a misspelt number is not silently a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MatmulRate(Facts):
    """Rate of one [m, k] x [k, n] product on one rank."""

    precision: Precision
    m: Count
    n: Count
    k: Count
    flops_per_s: Positive


class ProductModel(Facts):
    """Time of an [m, k] x [k, n] product: 2 (m + rows)(n + columns)(k + inner) / flops_per_s + start_s.

    What is added to each dimension stands for tiles that are not full and for a pipeline that fills and drains.
    """

    flops_per_s: Positive
    rows: Annotated[float, Field(ge=0)]
    columns: Annotated[float, Field(ge=0)]
    inner: Annotated[float, Field(ge=0)]
    start_s: Positive

    def time_s(self, rows: float, columns: float, inner: float, *, num: float = 1) -> float:
        """Of `num` such products in one kernel."""
        padded = (rows + self.rows) * (columns + self.columns) * (inner + self.inner)
        return num * 2 * padded / self.flops_per_s + self.start_s


class AttentionModel(Facts):
    """Time of fused causal self-attention: 2 heads width s (s + positions) / flops_per_s + start_s, s positions."""

    flops_per_s: Positive
    positions: Annotated[float, Field(ge=0)]
    start_s: Positive
    backward_ratio: Positive
    """Time of backward over forward's."""


class Level(Facts):
    """Speed of one rank while `ranks` of them work on the node at once, each with `threads` threads."""

    ranks: Count
    threads: Count
    matmul_flops_per_s: Rates
    matmul_by_size: tuple[MatmulRate, ...] = ()
    memory_bandwidth_bytes_per_s: Positive
    kernel_overhead_s: Positive
    """Time of one torch operation on next to no data, forward, autograd recording it."""
    backward_overhead_s: Positive | None = None
    """The same, backward; unknown means twice forward."""
    elementwise_s_per_element: Positive | None = None
    """Forward time of norms and activations per element they keep for backward; unknown means memory traffic alone."""
    product_models: dict[Precision, ProductModel] = {}
    """Products of any shape, from which those of a layer whose shapes are known are timed."""
    attention: AttentionModel | None = None
    kernel_start_s: Positive | None = None
    """Least time of a kernel on a GPU, however little it does."""


class NodeKind(Facts):
    """Nodes that are alike. The rates are those of one rank alone; `levels` adds those of several at once.

    Of nodes with several kinds of GPUs the rates are the slowest kind's, and the memory that of the smallest.
    """

    name: str
    # Machines that were probed earlier say `component`.
    number: Annotated[int, Field(ge=0)] | None = Field(None, validation_alias=AliasChoices("number", "component"))
    """Which of the study's node kinds these nodes were; None where it names none."""
    num_nodes: Count = 1
    device: Literal["cpu", "cuda"]
    device_reason: str | None = None
    """That torch saw GPUs which the study does not use, and what to do."""
    device_name: str = ""
    devices_per_node: Annotated[int, Field(ge=0)] = 0
    num_cpus: Count
    memory_bytes: Count
    device_memory_bytes: Count | None = None
    matmul_flops_per_s: Rates
    """The fastest product. Of a GPU what it keeps up under its power limit, below what `matmul_by_size` has."""
    matmul_flops_per_s_reason: dict[str, str] = {}
    matmul_by_size: tuple[MatmulRate, ...] = ()
    memory_bandwidth_bytes_per_s: Positive
    kernel_overhead_s: Positive
    backward_overhead_s: Positive | None = None
    elementwise_s_per_element: Positive | None = None
    product_models: dict[Precision, ProductModel] = {}
    attention: AttentionModel | None = None
    kernel_start_s: Positive | None = None
    concurrent_slowdown: Positive = 1.0
    levels: tuple[Level, ...] = ()
    process_memory_bytes: Count | None = None
    """Resident set of a rank that has imported torch and MPI, before it has a model."""
    power_w: Positive | None = None
    """Power of the whole node while all ranks compute."""
    power_w_reason: str | None = None

    def level(self, ranks: int) -> Level:
        """Speed of one rank while `ranks` work on the node: the measured level next above, scaled below the rest."""
        above = [level for level in self.levels if level.ranks >= ranks]
        if above:
            return min(above, key=lambda level: level.ranks)
        base = max(self.levels, key=lambda level: level.ranks) if self.levels else self._alone(ranks)
        crowd = max(1.0, ranks / max(base.ranks, self.num_cpus)) if self.device == "cpu" else 1.0
        return base if crowd == 1.0 else _slowed(base, crowd)

    def _alone(self, ranks: int) -> Level:
        level = Level(
            ranks=1,
            threads=max(1, self.num_cpus // ranks),
            matmul_flops_per_s=self.matmul_flops_per_s,
            matmul_by_size=self.matmul_by_size,
            memory_bandwidth_bytes_per_s=self.memory_bandwidth_bytes_per_s,
            kernel_overhead_s=self.kernel_overhead_s,
            backward_overhead_s=self.backward_overhead_s,
            elementwise_s_per_element=self.elementwise_s_per_element,
            product_models=self.product_models,
            attention=self.attention,
            kernel_start_s=self.kernel_start_s,
        )
        return _slowed(level, self.concurrent_slowdown) if ranks > 1 else level


class TransferPoint(Facts):
    """One-way time of a message of `bytes` between two ranks."""

    bytes: Annotated[int, Field(ge=0)]
    time_s: Positive


class AllreducePoint(Facts):
    """Time of one all-reduce of `bytes` per rank over `ranks` ranks."""

    ranks: Annotated[int, Field(ge=2)]
    bytes: Count
    time_s: Positive


class Link(Facts):
    """Messages between two ranks, and all-reduce over several, either within a node or between nodes."""

    latency_s: Positive
    bandwidth_bytes_per_s: Positive
    points: tuple[TransferPoint, ...] = ()
    allreduce: tuple[AllreducePoint, ...] = ()
    lanes: Count | None = None
    """Between nodes: adapters of a node, each of this bandwidth. Collectives over several ranks of each node then go
    inside the nodes first, and over all adapters at once (NCCL). Unknown means one link that all ranks share."""


class Links(Facts):
    """The link within a node and the one between nodes; a link that was not probed has a reason instead."""

    intra_node: Link | None = None
    intra_node_reason: str | None = None
    inter_node: Link | None = None
    inter_node_reason: str | None = None

    @model_validator(mode="after")
    def _reasons(self) -> Links:
        for name in ("intra_node", "inter_node"):
            if getattr(self, name) is None and not getattr(self, f"{name}_reason"):
                raise ValueError(f"{name} is null and {name}_reason does not say why")
        return self


class Network(Links):
    """Links of MPI between buffers in the hosts' memory, and those of torch's backends between GPUs."""

    on_device: dict[Backend, Links] = {}
    on_device_reason: dict[Backend, str] = {}
    """Why messages between GPUs were not timed through that backend."""


class Hardware(Facts):
    """hardware.json."""

    format: Literal[1] = 1
    site: str
    created_utc: str
    num_nodes: Count
    ranks_per_node: Count
    node_kinds: Annotated[tuple[NodeKind, ...], Field(min_length=1)]
    network: Network
    mpi: dict[str, Any] = {}
    sensors: tuple[dict[str, Any], ...] = ()
    provenance: dict[str, Any] = {}

    @property
    def slowest(self) -> NodeKind:
        """The kind of node every synchronous step waits for."""
        return min(self.node_kinds, key=lambda kind: kind.matmul_flops_per_s.get("fp32") or 0.0)


def load_hardware(path: Path) -> Hardware:
    """Read and check hardware.json. Raises ConfigError when it is missing, no JSON, or breaks a rule."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", "a plan needs what the probe measured", "run `hpc-accel probe` first"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", "hardware.json is JSON", "run `hpc-accel probe` again") from None
    return checked_hardware(content, where=str(path))


def checked_hardware(content: dict[str, Any], *, where: str = "hardware") -> Hardware:
    """`content` as Hardware. Raises ConfigError naming the first key that breaks a rule."""
    try:
        return Hardware.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ConfigError(
            f"{where}: {key} is {first.get('input')!r:.80}", first["msg"], "run `hpc-accel probe` again, or correct it"
        ) from None


def _slowed(level: Level, factor: float) -> Level:
    """`level` with every rate divided and every time multiplied by `factor`."""
    rates: Rates = {key: rate / factor if rate else None for key, rate in level.matmul_flops_per_s.items()}
    by_size = [point.model_copy(update={"flops_per_s": point.flops_per_s / factor}) for point in level.matmul_by_size]
    backward, elementwise = level.backward_overhead_s, level.elementwise_s_per_element
    return level.model_copy(
        update={
            "matmul_flops_per_s": rates,
            "matmul_by_size": tuple(by_size),
            "memory_bandwidth_bytes_per_s": level.memory_bandwidth_bytes_per_s / factor,
            "kernel_overhead_s": level.kernel_overhead_s * factor,
            "backward_overhead_s": backward * factor if backward else None,
            "elementwise_s_per_element": elementwise * factor if elementwise else None,
        }
    )
