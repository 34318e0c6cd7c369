"""Facts of a transformer language model from its sizes alone, in closed form and without torch.

Embedding, equal blocks, output head. Parameters and FLOPs are exact; kept bytes follow Korthikanti et al. (arXiv
2205.05198) for a block with biases, GELU and dropout, and are counted alike for a gated block without.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpc_accel.study.model_facts import AttentionShape, LayerFacts, LayerShape, ModelFacts, Product


@dataclass(frozen=True, kw_only=True)
class TransformerSizes:
    """What a model card says. Widths are elements, lengths positions."""

    layers: int
    hidden: int
    heads: int
    feed_forward: int
    vocabulary: int
    sequence: int
    kv_heads: int | None = None
    """Heads of keys and values; as many as of queries where None."""
    gated: bool = False
    """Whether the feed-forward part has a third product, as SwiGLU has."""
    biases: bool = True
    dropout: bool = True
    tied: bool = True
    """Whether the head's weight is the embedding's."""
    positions: int = 0
    """Of a learned table of positions; 0 for none."""
    head_parameters: int = 0
    """More of the output head than its product, as BERT's head has."""

    @property
    def head_width(self) -> int:
        """Elements of one head."""
        return self.hidden // self.heads

    @property
    def qkv_columns(self) -> int:
        """Width of queries, keys and values together."""
        return self.hidden + 2 * (self.kv_heads or self.heads) * self.head_width


@dataclass(frozen=True, kw_only=True)
class BlockCosts:
    """What of a block depends on the program that runs it."""

    num_operations: int = 40
    """Kernels that its forward pass launches."""
    embedding_operations: int = 10
    head_operations: int = 20
    fused_attention: bool = True
    fused_loss: bool = False
    """Whether the loss is one kernel that keeps no copy of the logits in fp32."""
    loss_bytes: float = 6
    """Held per logit at the fullest moment: in 16 bits, and once in fp32."""
    embedding_bytes: float = 0
    """Kept per position and entry of the vocabulary by the embedding, from forward to backward."""
    undivided_head_rate: float = 1.0
    """Of a product's usual rate, what those of the head reach where the vocabulary is not divided."""


def transformer_facts(sizes: TransformerSizes, costs: BlockCosts, *, shares_rank: bool = True) -> ModelFacts:
    """`shares_rank`: the first and the last stage are one, so that a tied head has no weight of its own."""
    block = _block(sizes, costs)
    return ModelFacts(
        layers=(_embedding(sizes, costs), *[block] * sizes.layers, _head(sizes, costs, shares_rank)),
        num_samples=10**9,
        sample_bytes=16 * sizes.sequence,
        sequential=True,
        tp_units=sizes.heads,
        sequence_length=sizes.sequence,
    )


def _block(sizes: TransformerSizes, costs: BlockCosts) -> LayerFacts:
    s, h, f, qkv = sizes.sequence, sizes.hidden, sizes.feed_forward, sizes.qkv_columns
    up = 2 * f if sizes.gated else f
    weights = h * qkv + h * h + h * up + f * h
    biases = qkv + h + up + h + 2 * h if sizes.biases else 0
    attention = AttentionShape(heads=sizes.heads, head_width=sizes.head_width, positions=s)
    flops = 2.0 * s * weights + 4.0 * s * s * h
    dropped = 1 if sizes.dropout else 0
    # In 16 bits: two norms, two residual additions with a mask of a byte; then what tp divides: rotated or transposed
    # queries, keys and values, and the activation.
    whole = s * h * 2 * (2 * 2 + 2 * 3) + 2 * dropped * s * h
    divided = 2 * s * (2 * qkv + h + (5 * f if sizes.gated else 2 * f))
    shape = LayerShape(
        products=(
            Product(rows=s, inner=h, columns=qkv, divided="columns"),
            Product(rows=s, inner=h, columns=h, divided="inner"),
            Product(rows=s, inner=h, columns=up, divided="columns"),
            Product(rows=s, inner=f, columns=h, divided="inner"),
        ),
        attention=attention,
        moved_bytes=whole + divided,
        tp_moved_bytes=divided,
        backward_moved=1.5,
    )
    return LayerFacts(
        name="block",
        num_parameters=weights + biases + 2 * h,
        forward_flops_per_sample=flops,
        output_elements_per_sample=s * h,
        saved_elements_per_sample=_kept_bytes(sizes, costs) // 2,
        tp_parameters=weights + (qkv + up if sizes.biases else 0),
        tp_flops_per_sample=flops,
        tp_allreduce_elements_per_sample=2 * s * h,
        num_operations=costs.num_operations,
        num_matmuls=4 if costs.fused_attention else 6,
        num_parameter_tensors=12 if sizes.biases else 6,
        tp_num_allreduces=2,
        shape=shape,
    )


def _kept_bytes(sizes: TransformerSizes, costs: BlockCosts) -> int:
    """From forward to backward, per sample, in 16 bits."""
    s, h, f = sizes.sequence, sizes.hidden, sizes.feed_forward
    mask = 1 if sizes.dropout else 0
    # Inputs of: two norms, the first product, the third; q, k, v; the output product; the activation and the last.
    kept = 2 * s * (4 * h + sizes.qkv_columns + h + (3 * f if sizes.gated else 2 * f)) + 2 * mask * s * h
    if costs.fused_attention:
        return kept + 2 * s * h + 4 * s * sizes.heads  # its output is kept once more, and a sum per row
    return kept + (4 + mask) * sizes.heads * s * s


def _embedding(sizes: TransformerSizes, costs: BlockCosts) -> LayerFacts:
    s, h = sizes.sequence, sizes.hidden
    table, logits = sizes.vocabulary * h, sizes.vocabulary * s
    return LayerFacts(
        name="embedding",
        num_parameters=table + sizes.positions * h,
        forward_flops_per_sample=0.0,
        output_elements_per_sample=s * h,
        saved_elements_per_sample=(8 * s + (s * h if sizes.dropout else 0) + int(costs.embedding_bytes * logits)) // 2,
        tp_parameters=table,
        tp_flops_per_sample=0.0,
        tp_allreduce_elements_per_sample=s * h,
        num_operations=costs.embedding_operations,
        num_parameter_tensors=2 if sizes.positions else 1,
        tp_num_allreduces=1,
        shape=LayerShape(moved_bytes=8.0 * s * h, recomputes=False),
    )


LOSS_BYTES = 34.0
"""Per logit forward, in fp32: cast, maximum, subtraction, exponential, sum, division, each reading and writing."""
LOSS_BACKWARD = 14.0 / 34.0
"""Backward multiplies in place and casts back."""
FUSED_LOSS_BYTES = 4.0


def _head(sizes: TransformerSizes, costs: BlockCosts, shares_rank: bool) -> LayerFacts:
    s, h, vocabulary = sizes.sequence, sizes.hidden, sizes.vocabulary
    weights = 0 if sizes.tied and shares_rank else vocabulary * h
    logits = s * vocabulary
    moved = (FUSED_LOSS_BYTES if costs.fused_loss else LOSS_BYTES) * logits
    return LayerFacts(
        name="head",
        num_parameters=weights + (2 * h if sizes.biases else h) + sizes.head_parameters,
        forward_flops_per_sample=2.0 * logits * h,
        output_elements_per_sample=1,
        saved_elements_per_sample=int(costs.loss_bytes * logits) // 2 + 2 * s * h,
        tp_parameters=weights,
        tp_flops_per_sample=2.0 * logits * h,
        tp_allreduce_elements_per_sample=0,
        num_operations=costs.head_operations,
        num_matmuls=1,
        num_parameter_tensors=2,
        shape=LayerShape(
            products=(Product(rows=s, inner=h, columns=vocabulary, divided="columns"),),
            moved_bytes=moved,
            tp_moved_bytes=moved,
            backward_moved=1.0 if costs.fused_loss else LOSS_BACKWARD,
            undivided_rate=costs.undivided_head_rate,
            recomputes=False,
            held_once=True,
        ),
    )
