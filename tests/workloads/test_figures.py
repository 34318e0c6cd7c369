"""Figures of merit against their definitions, and losses that divide among ranks."""

import pytest
import torch

from hpc_accel.workloads.builtin import imaging, risk
from hpc_accel.workloads.builtin.metrics import accuracy, majority_share, stratified


def test_area_under_the_curve_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    generator = torch.Generator().manual_seed(3)
    bad = (torch.rand(60, generator=generator) < 0.3).float()
    scores = (bad + torch.randn(60, generator=generator)).round(decimals=1)  # with ties
    expected = metrics.roc_auc_score(bad.numpy(), scores.numpy())
    assert risk.area_under_curve(scores, bad) == pytest.approx(expected)


def test_costs_are_those_of_the_data():
    bad = torch.tensor([1.0, 1.0, 0.0, 0.0])
    granted_all, refused_all = torch.full((4,), -1.0), torch.full((4,), 1.0)
    assert risk.cost_per_applicant(granted_all, bad) == 2 * 5 / 4
    assert risk.cost_per_applicant(refused_all, bad) == 2 * 1 / 4 == risk.cost_of_refusing_all(refused_all, bad)
    assert risk.cost_per_applicant(2 * bad - 1, bad) == 0


def test_weights_do_not_depend_on_the_batch():
    outputs, bad = torch.tensor([0.3, -0.2, 1.0, 0.5]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    parts = [risk.cost_weighted_loss(outputs[share], bad[share]) for share in (slice(0, 2), slice(2, 4))]
    assert risk.cost_weighted_loss(outputs, bad).item() == pytest.approx(torch.stack(parts).mean().item())


def test_dice_is_twice_the_overlap_over_both():
    targets = torch.zeros(1, 1, 2, 2, 2, dtype=torch.long)
    targets[0, 0, 0] = 1  # four voxels of grey matter
    outputs = torch.zeros(1, 3, 2, 2, 2)
    outputs[0, 1, 0, 0] = 1  # two of them found, nothing else
    assert imaging.dice(outputs, targets, 1) == pytest.approx(2 * 2 / (2 + 4))
    assert imaging.dice(outputs, targets, 0) == pytest.approx(2 * 4 / (6 + 4))


def test_a_stratified_split_keeps_the_shares():
    labels = torch.tensor([0] * 70 + [1] * 30)
    kept, held_out = stratified(labels, 0.2)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(100))
    assert labels[held_out].sum().item() == 6
    assert len(held_out) == 20
    assert torch.equal(held_out, stratified(labels, 0.2)[1])


def test_accuracy_and_what_it_must_beat():
    targets = torch.tensor([0, 2, 2, 1])
    outputs = torch.nn.functional.one_hot(torch.tensor([0, 2, 1, 1]), 3).float()
    assert accuracy(outputs, targets) == 0.75
    assert majority_share(outputs, targets) == 0.5
