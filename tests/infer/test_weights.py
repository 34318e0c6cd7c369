"""Training a little before serving: with any loss, class weights included, wherever they were left."""

from types import SimpleNamespace

import torch
from torch import nn

from hpc_accel.infer import weights
from hpc_accel.workloads.workload import Workload
from tests.infer.make_runs import served_run


class Travelled(nn.CrossEntropyLoss):
    """A loss with class weights that lies on a device of its own until it is fetched."""

    def __init__(self):
        super().__init__(weight=torch.tensor([1.0, 2.0, 3.0], device="meta"))

    def _apply(self, function, recurse=True):
        self.weight = torch.tensor([1.0, 2.0, 3.0], device=function(torch.empty(0)).device)
        return self


def test_class_weights_are_where_the_model_trains(tmp_path, monkeypatch):
    torch.manual_seed(0)
    samples = [(torch.randn(4), torch.tensor(index % 3)) for index in range(9)]
    made = Workload(model=nn.Linear(4, 3), loss=Travelled(), dataset=samples)
    before = made.model.weight.detach().clone()
    monkeypatch.setattr(weights.entry, "build", lambda workload, seed: made)
    alone = SimpleNamespace(Get_rank=lambda: 0, Bcast=lambda array, root: None)
    assert weights.build_workload(served_run(train_steps=3), tmp_path, alone) is made
    assert made.loss.weight.device.type == "cpu"
    assert not torch.equal(made.model.weight, before)
    assert (tmp_path / weights.FILE).exists()
