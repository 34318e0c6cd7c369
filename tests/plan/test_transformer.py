"""Closed-form facts against published counts, and times of known operations against arithmetic."""

from __future__ import annotations

import pytest

from hpc_accel.plan.kernels import attention_s, device_time
from hpc_accel.plan.shipped import hardware_of, shipped_names
from hpc_accel.plan.software import Software
from hpc_accel.plan.transformer import BlockCosts, TransformerSizes, transformer_facts
from hpc_accel.study.model_facts import AttentionShape

PLAIN = Software(
    optimizer_state_bytes=8, optimizer_traffic_bytes=28, optimizer_operations_per_tensor=1, activation_bytes=2,
    wire_bytes=2,
)  # fmt: skip


def sizes(**more) -> TransformerSizes:
    base = {"layers": 24, "hidden": 1024, "heads": 16, "feed_forward": 4096, "vocabulary": 50368, "sequence": 2048}
    return TransformerSizes(**base | more)


@pytest.mark.parametrize(
    ("hidden", "heads", "layers", "published"),
    [
        (768, 12, 12, 125_311_488),
        (1024, 16, 24, 355_985_408),
        (4096, 32, 32, 6_658_859_008),
        (8192, 64, 80, 64_862_437_376),
    ],
)
def test_parameters_are_those_that_llm_foundry_prints(hidden, heads, layers, published):
    one = sizes(
        hidden=hidden, heads=heads, layers=layers, feed_forward=4 * hidden, biases=False, dropout=False, positions=2048
    )
    assert transformer_facts(one, BlockCosts()).num_parameters == pytest.approx(published, rel=1e-3)


def test_flops_are_megatrons():
    one, s, h, layers, vocabulary = sizes(), 2048, 1024, 24, 50368
    published = 72 * s * layers * h * h * (1 + s / (6 * h) + vocabulary / (12 * layers * h))
    assert 3 * transformer_facts(one, BlockCosts()).forward_flops_per_sample == pytest.approx(published, rel=1e-6)


def test_kept_bytes_are_korthikantis():
    # 34 s b h + 5 a s^2 b bytes a layer in 16 bits (arXiv 2205.05198, equation 1).
    block = transformer_facts(sizes(), BlockCosts(fused_attention=False)).layers[1]
    assert 2 * block.saved_elements_per_sample == pytest.approx(34 * 2048 * 1024 + 5 * 16 * 2048**2, rel=1e-3)


def test_fewer_key_heads_and_a_gate_change_the_products():
    grouped = transformer_facts(sizes(kv_heads=4, gated=True, biases=False), BlockCosts()).layers[1]
    columns = [product.columns for product in grouped.shape.products]
    assert columns == [1024 + 2 * 4 * 64, 1024, 8192, 1024]


def test_a_product_takes_what_its_model_says():
    level = hardware_of("a100-sxm-80gb").slowest.level(8)
    product = level.product_models["bf16"]
    expected = 2 * (8192 + product.rows) * (1024 + product.columns) * (1024 + product.inner) / product.flops_per_s
    assert product.time_s(8192, 1024, 1024) == pytest.approx(expected + product.start_s)


def test_tensor_parallel_ranks_divide_products_attention_and_traffic():
    level = hardware_of("h100-sxm").slowest.level(8)
    block = transformer_facts(sizes(hidden=8192, heads=64, feed_forward=32768), BlockCosts()).layers[1]

    def once(tp: int) -> float:
        time = device_time(
            block, micro_batch_size=1, tp=tp, level=level, precision="bf16", software=PLAIN, sequence_parallel=True
        )
        return time.forward_s + time.input_s + time.weight_s

    assert once(1) / 2 < once(2) < once(1) / 1.8


def test_unfused_attention_is_slower_and_slower_still_off_the_kernels_multiple():
    level = hardware_of("a100-sxm-80gb").slowest.level(8)
    shape, product = AttentionShape(heads=16, head_width=64, positions=1024), level.product_models["fp16"]
    unfused = Software(**{**vars(PLAIN), "fused_attention": False, "softmax_batch_multiple": 4})

    def forward(tp: int, micro: int, software: Software) -> float:
        return attention_s(shape, micro, tp, level, product, software)[0]

    assert forward(8, 2, PLAIN) < forward(8, 2, unfused)
    assert forward(8, 2, unfused) < 2 * forward(8, 1, unfused)  # 2 heads: no multiple of 4


def test_attention_grows_with_the_square_of_the_sequence():
    level = hardware_of("a100-sxm-80gb").slowest.level(8)
    product = level.product_models["bf16"]
    long, short = (
        attention_s(AttentionShape(heads=16, head_width=128, positions=s), 1, 1, level, product, PLAIN)[0]
        for s in (65536, 32768)
    )
    assert long / short == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_file_says_where_its_figures_come_from(name):
    hardware = hardware_of(name)
    kind, sources = hardware.slowest, " ".join(hardware.provenance)
    assert kind.device == "cuda" and hardware.network.inter_node is not None
    for field in ("device_memory_bytes", "matmul_flops_per_s", "product_models", "memory_bandwidth_bytes_per_s"):
        assert field in sources
    assert {"intra_node", "inter_node"} <= set(hardware.provenance)
    assert {point.ranks for point in hardware.network.intra_node.allreduce} == {2, 4, 8}


def test_the_shipped_files_are_those_that_were_promised():
    assert set(shipped_names()) >= {
        *("a100-sxm-40gb", "a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200", "v100", "mi250x", "mi300x"),
    }
