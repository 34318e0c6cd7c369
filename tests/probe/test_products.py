"""Matrix products in each precision: what a CPU has, and on a GPU that all it claims to have runs and is right."""

from __future__ import annotations

import pytest
import torch

from hpc_accel.probe import products
from hpc_accel.probe.compute import CUDA_QUICK, measure_level
from hpc_accel.probe.products import FP8_MULTIPLE, PRECISIONS, arithmetic, precisions_for, product


def test_every_precision_is_measured_or_has_a_reason():
    measured, reasons = precisions_for(torch.device("cpu"))
    assert measured == ["fp32", "bf16"]
    assert set(measured) | set(reasons) == set(PRECISIONS) and all(reasons.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_product_has_its_shape_and_type(precision):
    result = product(torch.device("cpu"), precision, 3, 5)()
    assert result.shape == (3, 5)
    assert result.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def test_fp32_is_rounded_as_asked_and_the_setting_put_back():
    before = torch.get_float32_matmul_precision()
    with arithmetic("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
        with arithmetic("fp32"):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_fp8_is_multiplied_as_on_a_gpu():
    """torch's CPU build multiplies 8 bits too, slowly: the same call that times a GPU, with the sizes it rounds to."""
    cpu = torch.device("cpu")
    assert products._fp8_product(cpu, 1, 17)().shape == (FP8_MULTIPLE, 2 * FP8_MULTIPLE)
    torch.manual_seed(0)
    result = products._fp8_product(cpu, 64, 64)()
    assert result.dtype == torch.bfloat16
    torch.manual_seed(0)
    expected = torch.randn(64, 64).double() @ torch.randn(64, 64).double().t()
    assert (result - expected).norm() < 0.1 * expected.norm()


def test_an_old_gpu_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    measured, reasons = precisions_for(torch.device("cuda"))
    assert measured == ["fp32", "fp16"]
    assert set(reasons) == {"bf16", "tf32", "fp8"}


@pytest.mark.gpu
def test_a_gpu_measures_what_it_claims_to_have():
    device = torch.device("cuda", 0)
    measured, reasons = precisions_for(device)
    rates = measure_level(device, CUDA_QUICK, lambda: None)["matmul_flops_per_s"]
    assert {key for key, rate in rates.items() if rate is not None} == set(measured)
    assert all(rates[key] is None for key in reasons)
    assert all(1e11 < rates[key] < 1e16 for key in measured)
    if "tf32" in measured:
        assert rates["tf32"] > rates["fp32"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gpus_product_is_right_to_its_precision(precision):
    device = torch.device("cuda", 0)
    if precision not in precisions_for(device)[0]:
        pytest.skip(precisions_for(device)[1][precision])
    torch.manual_seed(0)
    with arithmetic(precision):
        result = product(device, precision, 64, 64)().double()
    torch.manual_seed(0)
    left, right = (torch.randn(64, 64, device=device).double() for _ in range(2))
    right = right.t() if precision == "fp8" else right
    tolerance = {"fp32": 1e-5, "tf32": 5e-3, "bf16": 3e-2, "fp16": 5e-3, "fp8": 2e-1}[precision]
    assert (result - left @ right).norm() < tolerance * (left @ right).norm()
