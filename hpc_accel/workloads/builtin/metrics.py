"""Figures of merit that more than one workload uses, and the seeded split they are computed on."""

from __future__ import annotations

import torch


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of samples whose largest score is that of their class; outputs [n, classes], targets [n]."""
    return float((outputs.argmax(dim=1) == targets).float().mean())


def majority_share(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Accuracy of always naming the most frequent class: what a model must beat to have learnt anything."""
    return float(targets.bincount().max() / len(targets))


def stratified(labels: torch.Tensor, share: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices to train on and indices held out, ascending: `share` of each class, drawn from `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        held_out[members[order[: round(share * len(members))]]] = True
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
