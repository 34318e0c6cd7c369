"""The parts parity is made of, each on small numbers."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.pipelining import SplitPoint, pipeline
from torch.utils.data import TensorDataset

from hpc_accel.parallel.draws import name_draws
from hpc_accel.runtime.randomness import digest_of_states, seed_all, states_kept, told_of_draws
from hpc_accel.runtime.seeded import Drawn, Seeded, digest_of_sample, draws_samples
from hpc_accel.runtime.still import Still, drop_nothing, held_still
from hpc_accel.runtime.weight import MeanOver, Weigh
from hpc_accel.train.parity.engine import summaries
from hpc_accel.train.parity.mean import CutLosses, measure_mean
from hpc_accel.train.parity.sketch import reals, sketch, squared
from hpc_accel.workloads.workload import Workload
from tests.train.parity.models import Augmented, pairs_loss, total_loss

F = nn.functional
WEIGHT = torch.tensor([1.0, 0.2, 3.0, 0.5])


def lengths(targets, ignored):
    """`targets` [n, t] with the ends of the rows ignored."""
    return targets.masked_fill(torch.arange(targets.shape[1]) >= torch.arange(len(targets))[:, None] % 5 + 1, ignored)


def tokens(ignored):
    def loss(outputs, targets):
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=ignored)

    return loss


CLASSES = (torch.randn(24, 4), torch.arange(24) % 4)
SEQUENCES = (torch.randn(24, 6, 7), torch.arange(144).reshape(24, 6) % 7)
PADDED = (SEQUENCES[0], lengths(SEQUENCES[1], -100))
NULLED = (SEQUENCES[0], lengths(SEQUENCES[1], 0))
MEANS = [
    (F.cross_entropy, CLASSES, "samples", None),
    (nn.CrossEntropyLoss(label_smoothing=0.2), CLASSES, "samples", None),
    (F.mse_loss, (torch.randn(24, 3), torch.randn(24, 3)), "samples", None),
    (tokens(-100), SEQUENCES, "samples", None),
    (tokens(-100), PADDED, "items", 15.0),
    (tokens(0), NULLED, "items", None),
    (total_loss, PADDED, "items", 15.0),
    (partial(F.cross_entropy, weight=WEIGHT), CLASSES, "items", None),
    (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), CLASSES, "items", None),
    (partial(F.cross_entropy, reduction="sum"), CLASSES, "sum", None),
    (pairs_loss, CLASSES, "neither", None),
]


def mean_of(workload, outputs, targets):
    return measure_mean(workload, CutLosses(workload.loss, outputs, targets, len(outputs), lists=False))


@pytest.mark.parametrize(("loss", "batch", "over", "weight"), MEANS)
def test_what_a_loss_is_the_mean_over_is_found(loss, batch, over, weight):
    torch.manual_seed(0)
    outputs, targets = batch
    workload = Workload(model=nn.Identity(), loss=loss, dataset=TensorDataset(*batch))
    mean = mean_of(workload, outputs, targets)
    assert mean.over == over
    if over != "items":
        return
    weigh = Weigh(mean)
    assert weight is None or weigh(targets[:5]) == pytest.approx(weight)
    if not mean.takes_total:
        parts = [slice(0, 5), slice(5, 24)]
        total = sum(weigh(targets[part]) for part in parts)
        whole = sum(weigh(targets[part]) * float(loss(outputs[part], targets[part])) for part in parts) / total
        assert whole == pytest.approx(float(loss(outputs, targets)), rel=1e-5)


def test_a_workload_may_say_what_counts():
    def loss(outputs, targets):
        return ((outputs - targets[:, 0]) ** 2 * targets[:, 1]).sum() / targets[:, 1].sum()

    outputs, targets = torch.randn(12), torch.rand(12, 2) + 0.5
    silent = Workload(model=nn.Identity(), loss=loss, dataset=TensorDataset(outputs, targets))
    assert mean_of(silent, outputs, targets).over == "neither"
    said = Workload(model=nn.Identity(), loss=loss, dataset=silent.dataset, weight=lambda targets: targets[:, 1].sum())
    mean = mean_of(said, outputs, targets)
    assert (mean.over, mean.said_by_workload) == ("items", True)
    assert Weigh(mean, said.weight)(targets[:3]) == pytest.approx(float(targets[:3, 1].sum()))


def test_a_weight_that_is_wrong_is_not_believed():
    outputs, targets = CLASSES
    data = TensorDataset(outputs, targets)
    workload = Workload(model=nn.Identity(), loss=F.cross_entropy, dataset=data, weight=lambda targets: targets.sum())
    assert mean_of(workload, outputs, targets) == MeanOver(over="samples")


def test_sketches_of_parts_add_up_and_tell_distances():
    torch.manual_seed(0)
    whole = torch.randn(40, 50)
    together = sketch(whole, (0, 0), whole.shape)
    parts = [sketch(whole[:13], (0, 0), whole.shape), sketch(whole[13:, :20], (13, 0), whole.shape)]
    parts.append(sketch(whole[13:, 20:], (13, 20), whole.shape))
    torch.testing.assert_close(sum(parts), together)
    assert float(together[-1]) == pytest.approx(float((whole.double() ** 2).sum()))
    errors = []
    for seed in range(20):
        other = whole + 0.01 * torch.randn(whole.shape, generator=torch.Generator().manual_seed(seed))
        apart = squared((sketch(other, (0, 0), whole.shape) - together).numpy()) ** 0.5
        errors.append(apart / float((other - whole).norm()))
    assert 0.6 < min(errors) <= max(errors) < 1.4
    assert np.mean(errors) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("shape", [(), (3,), (8, 8)])
def test_small_tensors_are_kept_exactly(shape):
    one, other = torch.randn(shape), torch.randn(shape)
    apart = sketch(one, (0,) * len(shape), shape) - sketch(other, (0,) * len(shape), shape)
    assert squared(apart.numpy()) == pytest.approx(float(((one.double() - other.double()) ** 2).sum()))


class Drawing(nn.Module):
    def forward(self, inputs):
        shared = torch.rand(3)
        kept = F.dropout(inputs, 0.4)
        return kept + torch.randn_like(inputs) + torch.randint(0, 9, (len(inputs), 1)) + shared.sum()


def test_any_cut_of_a_batch_draws_the_same():
    model = nn.Sequential(nn.Identity(), Drawing())
    drop_nothing(model)
    inputs, still = torch.ones(6, 5), Still(3)
    still.watch(model)

    def run(part, step=0):
        with held_still(still):
            still.batch(step, list(range(10, 16))[part])
            return model(inputs[part])

    before = digest_of_states()
    whole = run(slice(0, 6))
    assert digest_of_states() == before, "the generators outside are left as they were"
    torch.testing.assert_close(torch.cat([run(slice(4, 6)), run(slice(0, 4))]), whole[[4, 5, 0, 1, 2, 3]])
    assert not torch.equal(run(slice(0, 6), step=1), whole)
    assert (still.shared_draws, still.sample_draws) == ({"1"}, {"1"})


def test_attributes_that_name_a_share_to_drop_are_set_to_zero():
    model = nn.TransformerEncoderLayer(8, 2, dropout=0.3)
    model.layerdrop = 0.2
    drop_nothing(model)
    assert (model.layerdrop, model.self_attn.dropout, model.dropout.p, model.dropout1.p) == (0.0, 0.0, 0.0, 0.0)


def test_a_sample_is_a_function_of_seed_epoch_and_number():
    data = Seeded(Augmented(), 5)
    first = data[Drawn(3, 0)]
    random.random(), np.random.rand(), torch.rand(1), data[Drawn(7, 0)]
    assert digest_of_sample(data[Drawn(3, 0)]) == digest_of_sample(first)
    assert digest_of_sample(data[Drawn(3, 1)]) != digest_of_sample(first)
    assert draws_samples(Augmented(), [0, 1])
    assert not draws_samples(TensorDataset(torch.ones(2, 2)), [0, 1])


def states(seed):
    with states_kept():
        seed_all(seed)
        return digest_of_states()


def test_who_draws_what_is_compared():
    begin = [states(0)] * 4
    places = [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)]
    assert told_of_draws(places, begin, begin) == "", "nobody drew"
    assert told_of_draws(places, begin, [states(1), states(1), states(2), states(2)]) == ""
    assert "replicas 0 and 1" in told_of_draws(places, begin, [states(1)] * 4)
    apart = told_of_draws(places, begin, [states(1), states(3), states(2), states(2)])
    assert "tensor-parallel ranks 0 and 1" in apart


@pytest.mark.filterwarnings("error:Casting complex values")
def test_imaginary_parts_count():
    model = nn.Module()
    model.register_buffer("filter", torch.tensor([[3 + 4j, 1j], [0, 2]]))
    assert summaries(model) == {"filter": [10.0, 30.0]}
    one, other = torch.tensor([1 + 2j, 3j]), torch.tensor([1 + 2j, 4j])
    assert float((reals(one) - reals(other)).norm()) == pytest.approx(1.0)
    apart = sketch(one, (0,), one.shape) - sketch(other.conj().resolve_conj().conj(), (0,), one.shape)
    assert squared(apart.numpy()) == pytest.approx(1.0)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Drawing(), nn.Linear(5, 5)])

    def forward(self, inputs):
        states = self.layers[0](inputs) + torch.randn_like(inputs)
        return self.layers[1](states) * torch.rand_like(states)


def test_traced_stages_draw_what_the_model_draws():
    model, still, inputs = Noisy(), Still(3), torch.ones(4, 5)
    drop_nothing(model)
    still.watch(model)
    split = {"layers.1": SplitPoint.BEGINNING}
    pipe = pipeline(model, mb_args=(inputs,), split_spec=split)
    stages = [pipe.get_stage_module(index) for index in range(2)]
    name_draws(stages)
    found = []
    for forward in (model, lambda batch: stages[1](stages[0](batch))):
        with held_still(still):
            still.batch(1, [5, 2, 7, 0])
            found.append(forward(inputs))
    torch.testing.assert_close(*found)
