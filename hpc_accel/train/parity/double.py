"""A workload in fp64, in which parity is proven where fp32 would only show rounding.

A ReLU whose input rounds to the other side of 0 moves a gradient by 1e-4 to 1e-1, and with BatchNorm one does so in
most honest orders of sums; in fp64 none does.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import nn

from hpc_accel.workloads.batch import BatchRules
from hpc_accel.workloads.workload import Workload


class DoubledWorkload(Workload):
    """A workload whose batches come in fp64 where they are floating point, whatever made them."""

    @property
    def rules(self) -> BatchRules:
        """Those of the workload; batches in fp64."""
        return replace(super().rules, dtype=torch.float64)


def doubled(workload: Workload) -> Workload:
    """`workload` with its weights and the floating-point values of its batches in fp64."""
    workload.model.double()
    if isinstance(workload.loss, nn.Module):
        workload.loss.double()
    return DoubledWorkload(**{each.name: getattr(workload, each.name) for each in fields(workload)})
