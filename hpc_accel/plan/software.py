"""How the training software behaves, in numbers: bytes it keeps, bytes it moves, operations it adds.

These are properties of code, not of a machine, so they stand here and not in hardware.json. Overheads are in units of
one torch operation's, measured as ratios in one process on one rank (torch 2.13, CPU). The defaults are hpc_accel's own
training (torch.amp: fp32 weights and gradients, matrix products in 16 bits). A planner of another
training program describes that program by another `Software`.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpc_accel.study.recipe import Precision, Recipe
from hpc_accel.study.schema import Backend, Optimizer


@dataclass(frozen=True, kw_only=True)
class Software:
    """What one training program does per parameter, per element and per operation."""

    parameter_bytes: float = 4
    gradient_bytes: float = 4
    optimizer_state_bytes: float
    """Kept per parameter beside weights and gradients."""
    optimizer_traffic_bytes: float
    """Read and written per parameter in an optimizer step."""
    optimizer_operations_per_tensor: float
    activation_bytes: float
    """Per element autograd keeps."""
    wire_bytes: float
    """Per element of a tensor-parallel all-reduce."""
    boundary_bytes: float = 4
    """Per element sent between stages. Under amp a residual stream is still fp32."""
    cast_bytes_per_parameter: float = 0
    """Moved per parameter and micro-batch to cast weights to 16 bits and their gradients back."""
    recompute: bool = False
    """Whether backward runs the forward pass again, keeping only each layer's input."""
    overlaps_gradients: bool = True
    """Whether buckets of gradients are all-reduced while backward still runs."""
    queues_collectives: bool = False
    """Whether collectives are queued on the GPU like kernels (nccl), so that the host need not wait for them."""
    gradient_bucket_bytes: float = 25 * 2**20
    first_bucket_bytes: float = 2**20
    tensor_parallel_operations: float = 60
    """Operations' worth of time one divided matrix product adds: DTensor dispatch in Python, forward."""
    data_parallel_operations: float = 3
    """Operations' worth of time per parameter tensor and micro-batch: DistributedDataParallel's hooks."""
    pipeline_operations: float = 40
    """Operations' worth of time the schedule adds per micro-batch and pass."""
    collective_operations: float = 10
    """Operations' worth of time to enter one collective or send."""
    micro_batch_operations: float = 15
    """Operations' worth of time per micro-batch: its loss, and starting autograd."""
    sample_operations: float = 3
    """Operations' worth of time to fetch and collate one sample."""
    step_operations: float = 30
    """Operations' worth of time per step outside all that."""
    process_bytes: float = 0
    """Resident memory of a training process beyond what the probe's had: modules, allocator."""


_STATE_BYTES = {"sgd": 0, "sgd+momentum": 4, "adamw": 8}
_TRAFFIC_BYTES = {"sgd": 12, "sgd+momentum": 20, "adamw": 28}
_OPERATIONS = {"sgd": 1, "sgd+momentum": 3, "adamw": 10}


def torch_amp(optimizer: Optimizer, recipe: Recipe, backend: Backend = "mpi4py") -> Software:
    """hpc_accel's own training: `train.optimizer`, `train.precision` and DistributedDataParallel's defaults."""
    name = "sgd+momentum" if optimizer.name == "sgd" and optimizer.momentum else optimizer.name
    half = recipe.precision != "fp32"
    return Software(
        optimizer_state_bytes=_STATE_BYTES[name],
        optimizer_traffic_bytes=_TRAFFIC_BYTES[name],
        optimizer_operations_per_tensor=_OPERATIONS[name],
        # Norms, softmax and losses keep fp32 beside the 16-bit inputs of matrix products.
        activation_bytes=3 if half else 4,
        wire_bytes=wire_bytes(recipe.precision),
        queues_collectives=backend == "nccl",
        cast_bytes_per_parameter=12 if half else 0,
        process_bytes=140e6,
    )


def wire_bytes(precision: Precision) -> float:
    """Bytes of one element of a matrix product's result."""
    return 4 if precision == "fp32" else 2
