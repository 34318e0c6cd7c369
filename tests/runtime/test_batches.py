"""The global batch is the same set of samples in every layout, and an epoch sees each sample once."""

from itertools import islice

import pytest
import torch
from torch.utils.data import TensorDataset

from hpc_accel.errors import DataError
from hpc_accel.runtime.batches import Collate, ShareSampler, share_loader
from hpc_accel.workloads.batch import BatchRules


def share_of(dp, rank, num_samples=103, total=20, seed=3, **options):
    share = total // dp
    return ShareSampler(num_samples, total, start=rank * share, share=share, seed=seed, **options)


def batches(dp, num_samples=103, total=20, seed=3, count=11):
    ranks = [list(islice(share_of(dp, rank, num_samples, total, seed), count)) for rank in range(dp)]
    return [[index for share in shares for index in share] for shares in zip(*ranks, strict=True)]


@pytest.mark.parametrize("dp", [2, 4, 5, 20])
def test_shares_add_up_to_the_serial_batch_in_order(dp):
    assert batches(dp) == batches(1)


def test_an_epoch_sees_each_sample_once_and_the_next_another_order():
    epoch = [index for batch in batches(1, count=5) for index in batch]
    assert len(set(epoch)) == 100
    assert batches(1, count=10)[5:] != batches(1, count=5)
    assert share_of(1, 0).samples_dropped_per_epoch == 3


def test_too_few_samples_are_named():
    with pytest.raises(DataError, match="5 samples for a global batch of 20"):
        share_of(1, 0, num_samples=5)


def test_loader_yields_the_share():
    data = TensorDataset(torch.arange(40), torch.arange(40) * 2)
    sampler = share_of(2, 1, num_samples=40, total=8, seed=0)
    collate = Collate(BatchRules(collate=None, target=(), has_loss=True), 2)
    found = next(share_loader(data, sampler, collate)).micro_batches
    assert [each.count for each in found] == [2, 2]
    inputs, targets = (
        torch.cat(parts) for parts in zip(*((each.args[0], each.targets) for each in found), strict=True)
    )
    assert inputs.tolist() == next(iter(share_of(2, 1, num_samples=40, total=8, seed=0)))
    assert torch.equal(targets, inputs * 2)


@pytest.mark.parametrize(("dp", "total"), [(1, 20), (2, 20), (4, 20), (20, 20), (3, 30)])
def test_a_kept_last_batch_makes_each_sample_count_once(dp, total):
    """Short shares are filled up, and what fills them does not count."""
    counted = []
    for rank in range(dp):
        sampler = share_of(dp, rank, total=total, keep_last=True)
        for step, mine in enumerate(islice(sampler, sampler.batches_per_epoch)):
            assert len(mine) == total // dp
            counted += mine[: sampler.valid(step)]
    assert sorted(counted) == list(range(103))


def test_unequal_shares_make_up_the_serial_batch():
    shares = [12, 5, 3]
    parts = [
        list(islice(ShareSampler(103, 20, start=sum(shares[:rank]), share=share, seed=3), 7))
        for rank, share in enumerate(shares)
    ]
    whole = [[index for part in each for index in part] for each in zip(*parts, strict=True)]
    assert whole == batches(1, count=7)


def test_kept_batches_are_resumed_where_they_were():
    whole = list(islice(share_of(2, 1, keep_last=True), 15))
    assert list(islice(share_of(2, 1, keep_last=True, first_step=7), 8)) == whole[7:]
