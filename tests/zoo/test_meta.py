"""Each model of the zoo is built without values, filled, and run: what it sets in its own ways is kept."""

import pytest
import torch

from hpc_accel.parallel.loss_device import loss_of
from hpc_accel.study.run import WorkloadSpec
from hpc_accel.workloads import entry
from tests.zoo.cases import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_it_has_the_values_that_its_layers_give(name):
    build = MODELS[name]
    spec = WorkloadSpec(name="z", entry=f"{build.__module__}:{build.__name__}", global_batch_size=8, meta=True)
    filled, plain = entry.build(spec, 0), entry.build_at_once(spec, 0)
    for (own_name, own), (other_name, other) in zip(
        filled.model.named_parameters(), plain.model.named_parameters(), strict=True
    ):
        assert (own_name, own.shape, own.stride(), own.dtype) == (other_name, other.shape, other.stride(), other.dtype)
        if own.numel() > 64 and not own.is_complex():
            spread, usual = (float(each.detach().float().std()) for each in (own, other))
            assert spread == pytest.approx(usual, rel=0.3, abs=1e-6), own_name
    batch = filled.batch_of([0, 1])
    loss = loss_of(filled.loss, batch.call(filled.model), batch.targets)
    loss.backward()
    assert torch.isfinite(loss.detach())
