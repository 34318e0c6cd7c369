"""How the training software behaves, in numbers: bytes it keeps, bytes it moves, operations it adds.

These are properties of code, not of a machine, so they stand here and not in hardware.json. Overheads are in units of
one torch operation's, measured as ratios in one process on one rank (torch 2.13, CPU). The defaults are hpc_accel's own
training (torch.amp: fp32 weights and gradients, matrix products in 16 bits). A planner of another
training program describes that program by another `Software`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hpc_accel.study.model_facts import OptimizerFacts
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Offload, Precision, Recipe, Recompute
from hpc_accel.study.run import Backend

INTERLEAVING = 1.133 / 1.063
"""Measured over simulated time of interleaved 1F1B and of 1F1B, A100 (Qi et al., arXiv 2401.10241, recomputed)."""
SPLITTING = 1.077 / 1.063
"""The same of ZB-1p, which splits backward: synchronisation at the end of a step, and what a pass more costs."""
MEASURED_SLOWDOWN = {
    "interleaved_1f1b": INTERLEAVING,
    # Not measured by themselves: they too have several stages a rank, and the last three split backward.
    "looped_bfs": INTERLEAVING,
    "interleaved_zero_bubble": INTERLEAVING * SPLITTING,
    "zbv_zero_bubble": INTERLEAVING * SPLITTING,
    "dualpipev": INTERLEAVING * SPLITTING,
}


@dataclass(frozen=True, kw_only=True)
class Software:
    """What one training program does per parameter, per element and per operation."""

    parameter_bytes: float = 4
    gradient_bytes: float = 4
    optimizer_state_bytes: float
    """Kept per parameter beside weights and gradients."""
    optimizer_traffic_bytes: float
    """Read and written per parameter in an optimizer step."""
    optimizer_temporary_bytes: float = 0
    """Per parameter in an optimizer step of all tensors at once, as torch does it on a GPU; elsewhere one tensor's."""
    optimizer_operations_per_tensor: float
    activation_bytes: float
    """Per element autograd keeps."""
    wire_bytes: float
    """Per element of a tensor-parallel all-reduce."""
    boundary_bytes: float = 4
    """Per element sent between stages. Under amp a residual stream is still fp32."""
    cast_bytes_per_parameter: float = 0
    """Moved per parameter and micro-batch to cast weights to 16 bits and their gradients back."""
    cast_weight_bytes: float = 0
    """Kept per parameter and micro-batch in flight: what weights were cast to, which backward multiplies by again."""
    recompute: Recompute = "none"
    """What backward computes again: nothing, all but matrix products, or all of each layer but its input."""
    options: tuple[str, ...] = ()
    """`Recipe.calibrated`: what only measured passes tell."""
    offload: Offload = "none"
    """What a GPU leaves in the host's memory."""
    overlaps_gradients: bool = True
    """Whether buckets of gradients are all-reduced while backward still runs."""
    gradient_wire_bytes: float | None = None
    """Per gradient where it is sent in another precision than kept, which costs reading and writing it twice."""
    gather_bytes: float = 4
    """Per parameter that sharded replicas send each other and hold whole while a layer computes."""
    powersgd_rank: int | None = None
    """Rank of the two matrices that stand for a gradient on the wire (Vogels et al., arXiv 1905.13727)."""
    synchronises_batch_norm: bool = False
    """Whether BatchNorm layers wait for the sums of all replicas in each pass."""
    average_every: int = 1
    """Steps between averages of the replicas' parameters; above 1 gradients are not exchanged."""
    fused_optimizer: bool = False
    """Whether an optimizer step is one operation."""
    flattens_gradients: bool = True
    """Whether what is averaged after backward is copied into buckets, divided, and copied back."""
    data_workers: int = 0
    """Processes that fetch samples beside training."""
    queues_collectives: bool = False
    """Whether collectives are queued on the GPU like kernels (nccl), so that the host need not wait for them."""
    fused_attention: bool = True
    """Whether one kernel computes attention and keeps no scores (FlashAttention)."""
    attention_rate_share: float = 1.0
    """Of the machine's rate of fused attention, what this program's kernel reaches."""
    accumulation_bytes: float = 0
    """Moved per parameter and micro-batch to add gradients to those of earlier micro-batches in another precision."""
    updates_coalesced: bool = False
    """Sharded optimizer: whether all updated parameters are sent in one collective, and not tensor by tensor."""
    workspace_bytes: float = 0
    """Of a GPU's memory, tensors that products and attention work in."""
    lingering_tensors: float = 0
    """Outputs of a block that are still referenced when a step is over."""
    lingering_divided: float = 0
    """The same of what tensor-parallel ranks divide."""
    reduces_in_place: bool = False
    """Whether gradients are reduced where they lie, so that none are in transit."""
    softmax_batch_multiple: int | None = None
    """Unfused attention: the kernel for scale, mask and softmax takes this multiple of heads times samples."""
    unfused_softmax_operations: float = 0
    """Operations more in a layer's pass where that kernel cannot be used."""
    gradient_bucket_bytes: float = 25 * 2**20
    first_bucket_bytes: float = 2**20
    tensor_parallel_operations: float = 2
    """Operations' worth of time one divided matrix product adds, forward: what enters or leaves it is viewed or copied
    by an autograd node in Python. Counted in `parallel.exchange`."""
    data_parallel_operations: float = 3
    """Operations' worth of time per parameter tensor and micro-batch: DistributedDataParallel's hooks."""
    sharded_forward_operations: float = 125
    """Operations' worth of time per layer and micro-batch: what FSDP2's hooks do before and after it, beside the
    messages. Measured on layers of 2 to 13 tensors: 87 to 160, as for backward 102 to 296."""
    sharded_backward_operations: float = 200
    sharded_update_operations: float = 65
    """Operations' worth of time per tensor that DTensor's dispatch adds to an optimizer step on a CPU. Measured with
    AdamW: 55 to 95."""
    pipeline_operations: float = 40
    """Operations' worth of time the schedule adds per micro-batch and pass."""
    collective_operations: float = 10
    """Operations' worth of time to enter one collective or send."""
    micro_batch_operations: float = 15
    """Operations' worth of time per micro-batch: its loss, and starting autograd."""
    sharpness: float | None = None
    """How well a GPU's work hides the host's near equality (`PassTime.elapsed_s`); None: whole."""
    message_sharpness: float | None = None
    """The same with collectives between the kernels, for which ranks wait for one another."""
    ring_wait_s: float = 0
    """What the host waits more for each step of a tensor-parallel ring while a pipeline's messages cross nodes."""
    idle_operations: float = 0
    """Operations' worth of time per micro-batch in which a GPU has nothing queued: the host waits for it, as where a
    batch is broadcast over the tensor-parallel ranks."""
    straggling_share: float = 0
    """Of the host's time, what waiting for the slowest of the tensor-parallel ranks adds for each doubling of them."""
    sample_operations: float = 3
    """Operations' worth of time to fetch and collate one sample."""
    step_operations: float = 30
    """Operations' worth of time per step outside all that."""
    schedule_slowdown: Mapping[str, float] = field(default_factory=lambda: MEASURED_SLOWDOWN)
    """Pipeline time over simulated time, relative to 1F1B's; schedules not named have none."""
    process_bytes: float = 0
    """Resident memory of a training process beyond what the probe's had: modules, allocator."""


def torch_amp(
    optimizer: Optimizer, recipe: Recipe, backend: Backend = "mpi4py", measured: OptimizerFacts | None = None
) -> Software:
    """hpc_accel's own training: optimizer and precision of `runtime`, and what the recipe asks of data parallelism.

    `measured` is the optimizer on the model, by default on one matrix. Its traffic is assumed: weights are read and
    written, gradients read, and all state read and written, once each; clipping reads gradients, and reads and writes
    them again.
    """
    own = measured or _on_one_matrix(optimizer)
    state, clips = own.state_bytes_per_parameter, optimizer.clip_grad_norm is not None
    half = recipe.precision in HALF
    # Second moments under their root; plain SGD's gradients with the decay added.
    has_temporaries = optimizer.name != "sgd" or bool(optimizer.weight_decay)
    software = Software(
        optimizer_state_bytes=state,
        optimizer_traffic_bytes=12 + 2 * state + (12 if clips else 0),
        optimizer_operations_per_tensor=own.operations_per_tensor + (2 if clips else 0),
        activation_bytes=_activation_bytes(recipe) if half else 4,
        wire_bytes=wire_bytes(recipe.precision),
        queues_collectives=backend == "nccl",
        optimizer_temporary_bytes=4 if has_temporaries and not recipe.fused_optimizer else 0,
        cast_bytes_per_parameter=_CAST_BYTES.get(recipe.precision, 0),
        cast_weight_bytes=2 if half else 0,
        process_bytes=140e6,
        recompute=recipe.recompute,
        options=recipe.calibrated,
        offload=recipe.offload,
        overlaps_gradients=recipe.overlap,
        gradient_wire_bytes=2 if recipe.compression in ("bf16", "fp16") else None,
        gather_bytes=2 if half else 4,
        powersgd_rank=4 if recipe.compression == "powersgd" else None,  # parallel.powersgd.POWERSGD_RANK
        synchronises_batch_norm=recipe.sync_batch_norm,
        average_every=recipe.average_every,
        fused_optimizer=recipe.fused_optimizer,
        data_workers=recipe.data_workers,
    )
    if recipe.bucket_mb is None:
        return software
    size = recipe.bucket_mb * 2**20
    return replace(software, gradient_bucket_bytes=size, first_bucket_bytes=min(size, software.first_bucket_bytes))


def _on_one_matrix(optimizer: Optimizer) -> OptimizerFacts:
    from hpc_accel.workloads.optimizer_facts import usual_facts  # torch, which a plan from sizes alone does without

    return usual_facts(optimizer)


HALF = ("bf16", "fp16", "fp8")
"""Precisions whose activations are kept in 16 bits. fp8 is that of matrix products alone."""
_CAST_BYTES = {
    "bf16": 12,
    "fp16": 12,
    # On top of the 16 bits: weights are read for their largest value, read again and written in 8 bits, both ways.
    "fp8": 12 + 2 * (2 + 2 + 1),
}


def _activation_bytes(recipe: Recipe) -> float:
    """Norms, softmax and losses keep fp32 beside the 16-bit inputs of products.

    An H200's peaks at two micro-batch sizes say 2.53 bytes a number of a language model of 350M and 2.52 of a ViT-L.
    What recomputation starts from is the residual stream, in fp32.
    """
    return 2.55 if recipe.recompute == "none" else 3.3


def wire_bytes(precision: Precision) -> float:
    """Bytes of one element of a matrix product's result."""
    return 2 if precision in HALF else 4
