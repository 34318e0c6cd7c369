"""What goes to the host until backward: large activations in the order they had; never weights, never small tensors."""

import pytest
import torch
from torch import nn

from hpc_accel.parallel import memory_layout
from hpc_accel.parallel.memory_layout import MIN_OFFLOAD_BYTES, offload_activations


@pytest.fixture
def moved(monkeypatch):
    """The tensors that are copied to the host, as they are there; also small ones."""
    monkeypatch.setattr(memory_layout, "MIN_OFFLOAD_BYTES", 1)
    found, pack = [], memory_layout._pack

    def watched(buffers, tensor):
        device, packed = pack(buffers, tensor)
        if packed is not tensor:
            found.append(packed)
        return device, packed

    monkeypatch.setattr(memory_layout, "_pack", watched)
    return found


def gradients(module, inputs):
    module.zero_grad()
    module(inputs).square().sum().backward()
    return [parameter.grad.clone() for parameter in module.parameters()]


def test_gradients_stay_the_same_and_weights_where_they_are(moved):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    inputs = torch.randn(3, 8)
    wanted = gradients(module, inputs)
    offload_activations(module)
    for mine, plain in zip(gradients(module, inputs), wanted, strict=True):
        assert torch.equal(mine, plain)
    weights = {parameter.shape for parameter in module.parameters()}
    weights |= {parameter.t().shape for parameter in module.parameters() if parameter.dim() == 2}
    assert moved
    assert not {each.shape for each in moved} & weights


def test_casts_of_weights_stay_and_casts_of_inputs_go(moved):
    module = nn.Sequential(nn.Linear(8, 16), nn.Conv1d(3, 5, 2))
    module.forward = torch.autocast("cpu", torch.bfloat16)(module.forward)
    offload_activations(module)
    module(torch.randn(3, 8, requires_grad=True)).sum().backward()
    assert {each.dtype for each in moved} == {torch.bfloat16}
    assert sorted(tuple(each.shape) for each in moved) == [(1, 3, 16), (3, 8)], "the inputs of both layers"


def test_buffers_and_views_of_weights_stay(moved):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 4, 4))
            self.register_buffer("mask", torch.eye(4, dtype=torch.bool))

        def forward(self, states):
            return (states @ self.weight[1]).masked_fill(self.mask, 0.0).sin()

    module = Masked()
    offload_activations(module)
    module(torch.randn(4, 4, requires_grad=True)).sum().backward()
    assert [each.dtype for each in moved] == [torch.float32] * 2, "the input, and what the sine needs"


def test_the_order_of_channels_survives(moved):
    orders = []

    class Seen(nn.Module):
        def forward(self, images):
            images.register_hook(lambda gradient: orders.append(gradient.is_contiguous(memory_format=order)))
            return images

    order = torch.channels_last
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(4, 8, 3), Seen(), nn.GELU(), nn.Conv2d(8, 4, 3)).to(memory_format=order)
    images = torch.randn(2, 4, 9, 9).contiguous(memory_format=order)
    wanted = gradients(module, images)
    offload_activations(module)
    for mine, plain in zip(gradients(module, images), wanted, strict=True):
        assert torch.equal(mine, plain)
    assert len(moved) >= 3
    assert all(each.is_contiguous(memory_format=order) for each in moved)
    assert orders == [True, True]


def test_small_tensors_and_repeated_ones_stay():
    none = frozenset()
    elements = MIN_OFFLOAD_BYTES // 4
    assert memory_layout._stays(none, torch.empty(elements - 1))
    assert not memory_layout._stays(none, torch.empty(elements))
    assert not memory_layout._stays(none, torch.empty(2, elements)[1]), "half of what is given back in whole"
    assert memory_layout._stays(none, torch.empty(1).expand(elements)), "a copy would be larger than what it frees"
    assert memory_layout._stays(none, torch.eye(elements // 1000).to_sparse())


def test_what_is_moved_is_a_copy_of_its_own():
    tensor = torch.randn(MIN_OFFLOAD_BYTES)
    device, packed = memory_layout._pack(frozenset(), tensor)
    assert packed.data_ptr() != tensor.data_ptr()
    assert torch.equal(memory_layout._unpack((device, packed)), tensor)
