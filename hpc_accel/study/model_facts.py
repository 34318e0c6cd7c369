"""What the planner and the layout rules need to know of a model, as plain numbers without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Result = Literal["tensor", "nested", "loss"]


@dataclass(frozen=True, kw_only=True)
class Product:
    """One matrix product of a sample's forward pass: [rows, inner] x [inner, columns], the second a weight."""

    rows: int
    inner: int
    columns: int
    divided: Literal["columns", "inner", "none"] = "none"
    """Which of the weight's dimensions tensor-parallel ranks divide."""


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """Self-attention of one sample: `heads` of `head_width`, over all `positions`."""

    heads: int
    head_width: int
    positions: int
    causal: bool = True
    """Whether a position sees only those before it, which halves the work of a fused kernel."""


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """What a layer computes, operation by operation, where it is known: that of a transformer of given sizes."""

    products: tuple[Product, ...] = ()
    attention: AttentionShape | None = None
    moved_bytes: float = 0
    """Read and written per sample forward by operations that compute little: norms, activations, casts, losses."""
    tp_moved_bytes: float = 0
    """Of those, the bytes that tensor-parallel ranks divide."""
    backward_moved: float = 2.0
    """Backward's such bytes, as a multiple of forward's."""
    undivided_rate: float = 1.0
    """Of a product's usual rate, what its products reach on one tensor-parallel rank."""
    recomputes: bool = True
    """Whether recomputation runs this layer's forward pass again."""
    held_once: bool = False
    """Whether its backward follows its forward at once, so that it keeps one micro-batch however many are in flight."""


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """One layer of the model, in the order data flows through it. Element counts are per sample."""

    name: str
    num_parameters: int
    forward_flops_per_sample: float
    output_elements_per_sample: int
    saved_elements_per_sample: int
    """Elements autograd keeps for backward."""
    tp_parameters: int
    """Of `num_parameters`, those a tensor-parallel layout divides among its ranks."""
    tp_flops_per_sample: float
    """Of `forward_flops_per_sample`, those a tensor-parallel layout divides among its ranks."""
    tp_allreduce_elements_per_sample: int
    """Elements all-reduced over the tensor-parallel ranks in the forward pass (as many again backward)."""
    num_operations: int = 1
    """torch operations the forward pass dispatches; on a small model their overhead is most of the time."""
    num_matmuls: int = 1
    """Of those, matrix products and convolutions: FLOPs and parameters are spread over this many."""
    num_batch_norms: int = 0
    """BatchNorm layers inside."""
    batch_norm_channels: int = 0
    """Channels of all of them together."""
    num_parameter_tensors: int = 1
    """Tensors the parameters come in: an optimizer step costs its overhead once for each."""
    tp_num_allreduces: int = 0
    """Messages `tp_allreduce_elements_per_sample` is sent in, forward (as many again backward)."""
    shape: LayerShape | None = None
    """Its operations one by one; None where only the sums above are known."""


@dataclass(frozen=True, kw_only=True)
class OptimizerFacts:
    """What a step of the workload's optimizer keeps and computes, measured."""

    state_bytes_per_parameter: float
    """On average over the model."""
    operations_per_tensor: float
    """torch operations that one tensor's update dispatches where tensors are updated one by one."""
    keeps_groups: bool
    """Whether it has the groups that it was given, and none of its own making."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A workload as the planner sees it."""

    layers: tuple[LayerFacts, ...]
    num_samples: int | None
    """Of an epoch; None for a stream that does not tell."""
    sample_bytes: int
    sequential: bool
    """Whether stages can be cut between any two layers; if not, a tracer cuts between blocks."""
    in_blocks: bool = False
    """Whether stages are cut between blocks of a model that is no Sequential: each is called with all inputs."""
    is_stream: bool = False
    """Whether samples come one after the other, without numbers."""
    no_stages: str = ""
    """What about the workload stages of a pipeline cannot run; "" where nothing is known to stand against them."""
    no_trace: str = ""
    """Why torch's tracer cannot cut a model that is not sequential; "" where it can, or was not tried."""
    result: Result = "tensor"
    """What the model returns: one tensor, several, or its loss."""
    tp_units: int | None
    """Largest number of equal shares the tensor plan's dimensions have in common; None without a plan."""
    sequence_length: int | None = None
    """Positions that sequence parallelism divides; None where the tensor plan does not say where it begins and ends."""
    tied_layers: tuple[tuple[int, int], ...] = ()
    """First and last layer, by index, that share a parameter."""
    half_divided: tuple[str, ...] = ()
    """Modules of the tensor plan that share a parameter with one that it does not divide alike."""
    unused_parameters: tuple[str, ...] = ()
    """Trainable parameters that the loss of two samples does not depend on."""
    varies: bool = False
    """Whether samples were seen to use different parameters, as in a mixture of experts."""
    autocast_problem: str = ""
    """What torch says where the model mixes 16-bit results of autocast with others; "" where it runs."""
    sparse_gradients: tuple[str, ...] = ()
    """Parameters with sparse gradients; none are known of a model too large to be run."""
    complex_parameters: tuple[str, ...] = ()
    has_channels: bool = True
    """Whether any parameter has the 4 or 5 dimensions of images' or volumes' weights."""
    other_batch_norms: tuple[str, ...] = ()
    """Layers derived from BatchNorm that compute something of their own."""
    gathers_outputs: bool = False
    """Whether the loss is one of the outputs of all replicas together."""
    loss_talks: tuple[str, ...] = ()
    """Operations by which the loss itself talks to other ranks."""
    optimizer: OptimizerFacts | None = None
    """None of a model that is known by its sizes only."""
    max_tokens: int | None = None
    """Longest sequence of a model that generates tokens; None for one that does not."""

    @property
    def num_cuttable_layers(self) -> int:
        """Layers with parameters, the most stages the model can be cut into."""
        return sum(layer.num_parameters > 0 for layer in self.layers)

    @property
    def num_batch_norms(self) -> int:
        """BatchNorm layers of the whole model with torch's own forward."""
        return sum(layer.num_batch_norms for layer in self.layers)

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of the whole model."""
        return sum(layer.num_parameters for layer in self.layers)

    @property
    def forward_flops_per_sample(self) -> float:
        """Floating-point operations of one sample's forward pass."""
        return sum(layer.forward_flops_per_sample for layer in self.layers)
