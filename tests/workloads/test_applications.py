"""Every built-in workload learns, is judged on data it was not trained on, and has a loss that layouts can divide.

Those that need an extra are skipped where it is not installed.
"""

import importlib.util
import math
from functools import cache

import pytest
import torch
from torch.utils.data import default_collate

from hpc_accel.study.builtin_workloads import BUILTIN
from hpc_accel.study.run import WorkloadSpec
from hpc_accel.workloads import entry
from hpc_accel.workloads.count_facts import describe
from hpc_accel.workloads.nested import tensors_of

CASES = {
    "digits": ({}, "sklearn"),
    "driving": ({"samples": 80}, "highway_env"),
    "hf": (
        {"overrides": {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 256}, "sequence": 64},
        "transformers",
    ),
    "imaging": ({"patch": 16, "stride": 40, "channels": 4, "held_out": 6}, "monai"),
    "lm": ({"layers": 1}, "torch"),
    "risk": ({}, "dalex"),
    "vision": ({"image": 16, "samples": 64, "classes": 4}, "torch"),
}
"""Arguments that keep it small, and the module without which it is skipped."""


@pytest.fixture(scope="module", autouse=True)
def cache_directory(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@cache
def _built(name):
    spec = WorkloadSpec(name=name, entry=BUILTIN[name].entry, args=CASES[name][0], global_batch_size=8)
    return entry.build(spec, seed=0)


@pytest.fixture(params=CASES)
def workload(request):
    module = CASES[request.param][1]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed (make extras)")
    return _built(request.param)


def batch_of(dataset, count):
    inputs, targets = default_collate([dataset[index % len(dataset)] for index in range(count)])
    return (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs), targets


def test_cases_name_every_workload_with_something_to_learn():
    assert set(CASES) == set(BUILTIN) - {"mlp", "synthetic"}


def test_the_loss_falls(workload):
    inputs, targets = batch_of(workload.dataset, 8)
    kept = {name: values.clone() for name, values in workload.model.state_dict().items()}
    optimizer = torch.optim.AdamW(workload.model.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        loss = workload.loss(workload.model(*inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    optimizer.zero_grad(set_to_none=True)
    workload.model.load_state_dict(kept)
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.97 * losses[0]


def test_the_loss_is_the_mean_over_samples(workload):
    workload.model.eval()  # dropout draws other numbers in each call
    inputs, targets = batch_of(workload.dataset, 6)
    with torch.no_grad():
        outputs = workload.model(*inputs)
        whole = workload.loss(outputs, targets)
        parts = [workload.loss(outputs[share], targets[share]) for share in (slice(0, 3), slice(3, 6))]
        samples = [workload.loss(workload.model(*(part[[i]] for part in inputs)), targets[[i]]) for i in range(6)]
    assert whole.item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)
    assert whole.item() == pytest.approx(torch.stack(samples).mean().item(), rel=1e-4)


def test_the_metric_is_of_other_data(workload):
    metric = workload.metric
    inputs, targets = batch_of(metric.dataset, len(metric.dataset))
    with torch.no_grad():
        outputs = workload.model(*inputs).float()
    figures = {metric.name: metric.compute, **metric.also}
    values = {name: figure(outputs, targets) for name, figure in figures.items()}
    assert all(isinstance(value, float) and math.isfinite(value) for value in values.values()), values
    trained_on = {fingerprint(workload.dataset[index]) for index in range(len(workload.dataset))}
    held_out = {fingerprint(metric.dataset[index]) for index in range(len(metric.dataset))}
    # Bytes of text share no place, but a row of spaces or dashes may come again.
    few = 0.01 * len(held_out) if metric.name == "bits_per_byte" else 0
    assert len(trained_on & held_out) <= few


def test_facts_are_found(workload):
    facts = describe(workload)
    assert facts.num_parameters == sum(parameter.numel() for parameter in workload.model.parameters())
    assert facts.forward_flops_per_sample > 0
    inputs, _ = batch_of(workload.dataset, 1)
    assert facts.sample_bytes == sum(part.numel() * part.element_size() for part in inputs)


def test_weights_follow_the_seed_and_data_do_not():
    spec = WorkloadSpec(name="vision", entry=BUILTIN["vision"].entry, args=CASES["vision"][0], global_batch_size=8)
    first, again, other = (entry.build(spec, seed) for seed in (0, 0, 1))
    weights = [torch.cat([p.flatten() for p in built.model.parameters()]) for built in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(first.dataset[3][0], other.dataset[3][0])


def fingerprint(sample):
    return b"".join(part.numpy().tobytes() for part in tensors_of(sample[0]))
