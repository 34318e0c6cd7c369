"""What autograd keeps counts once, whoever keeps it."""

from __future__ import annotations

import torch
from torch import nn

from hpc_accel.workloads.counting import Counting


def kept(forward, *inputs: torch.Tensor) -> int:
    with Counting(nn.Identity(), {}) as counting:
        result = forward(*inputs)
    assert result.requires_grad  # what was kept still is
    return counting.take().saved_elements


def test_a_tensor_that_two_operations_keep_counts_once():
    x = torch.ones(6, 8, requires_grad=True)
    assert kept(lambda a: a.exp().sin(), x) == 48  # the exponential, for itself and for the sine
    assert kept(lambda a: a.sin() + a.cos(), x) == 48


def test_parts_of_a_tensor_count_as_much_as_it_and_no_more():
    x = torch.ones(6, 8, requires_grad=True)

    def parts(a: torch.Tensor) -> torch.Tensor:
        first, second = a.exp().chunk(2, dim=1)
        return first.sin() * second.sin() + first.cos()

    # The exponential whole, and the two sines that the product keeps.
    assert kept(parts, x) == 48 + 24 + 24


def test_two_tensors_count_both():
    x, y = torch.ones(6, 8, requires_grad=True), torch.ones(6, 8, requires_grad=True)
    assert kept(lambda a, b: a * b, x, y) == 96
