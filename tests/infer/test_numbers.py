"""What changes numbers: masks, int8, 16 bits; and what tells how much: errors, classes, a metric."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.errors import ConfigError
from hpc_accel.infer.model import build_inference_model
from hpc_accel.infer.outputs import Answers, answers, compare, relative_error, serial_answers, top1_agreement
from hpc_accel.infer.pruning import compress_two_of_four, prune_weights, two_of_four
from hpc_accel.infer.quantize import check_linears
from hpc_accel.parallel.mesh import rank_coordinates
from hpc_accel.study.recipe import Recipe
from hpc_accel.workloads.workload import Metric, Workload
from tests.infer.make_runs import served_run

CPU = torch.device("cpu")


def test_two_of_four_keeps_the_two_largest_of_every_four():
    weight = torch.tensor([[1.0, -5.0, 2.0, 0.5, 3.0, 3.5, -4.0, 0.0]])
    assert two_of_four(weight).tolist() == [[0, 1, 1, 0, 0, 1, 1, 0]]
    mask = two_of_four(torch.randn(6, 16))
    assert (mask.reshape(-1, 4).sum(1) == 2).all()


def test_magnitude_sets_the_smallest_weights_of_each_layer_to_zero():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(8, 10))
    kept = [layer.weight.detach().clone() for layer in (model[0], model[2])]
    notes = prune_weights(model, Recipe(prune="magnitude", prune_fraction=0.25))
    for layer, before in zip((model[0], model[2]), kept, strict=True):
        zero = layer.weight == 0
        assert zero.sum() == before.numel() // 4
        assert before[zero].abs().max() <= before[~zero].abs().min()
        assert (layer.weight[~zero] == before[~zero]).all()
    assert "29 of 116 weights of 2 layers" in notes[0]


def test_what_has_nothing_to_work_on_is_refused():
    relu = nn.Sequential(nn.ReLU())
    with pytest.raises(ConfigError, match="without linear or convolution"):
        prune_weights(relu, Recipe(prune="magnitude"))
    with pytest.raises(ConfigError, match="multiple of 4"):
        prune_weights(nn.Sequential(nn.Linear(6, 2)), Recipe(prune="2:4"))
    with pytest.raises(ConfigError, match="without linear layers"):
        check_linears(relu, CPU)


def test_a_cpu_says_that_it_has_no_sparse_kernels():
    assert "no sparse kernels" in compress_two_of_four(nn.Linear(4, 4), CPU)[0]


@pytest.mark.gpu
def test_sparse_kernels_compute_what_the_zeros_say():
    layer = nn.Sequential(nn.Linear(128, 128)).half().cuda()
    prune_weights(layer, Recipe(prune="2:4"))
    inputs = torch.randn(64, 128, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        dense = layer(inputs)
        assert "1 linear layers computed by sparse" in compress_two_of_four(layer, inputs.device)[0]
        assert relative_error(layer(inputs).float(), dense.float()) < 1e-2


def workload(model=None, metric=None, metric_reason=""):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 16, generator=generator)
    torch.manual_seed(1)
    return Workload(
        model=model or nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5)),
        loss=nn.functional.cross_entropy,
        dataset=TensorDataset(inputs, torch.arange(40) % 5),
        metric=metric,
    )


def model_of(made, **recipe):
    run = served_run(batch_size=8, recipe=Recipe(**recipe))
    return build_inference_model(run, made, None, rank_coordinates(run.layout, 0, "cpu"), CPU)


@torch.no_grad()
@pytest.mark.parametrize(
    ("recipe", "most"), [({"precision": "bf16"}, 0.03), ({"precision": "fp16"}, 0.01), ({"quantize": "int8"}, 0.1)]
)
def test_fewer_bits_change_the_answers_a_little(recipe, most):
    inputs = workload().dataset.tensors[0][:8]
    exact = workload().model(inputs)
    found = model_of(workload(), **recipe)((inputs,)).float()
    assert 0 < relative_error(found, exact) < most


def test_int8_on_a_gpu_is_refused_before_anything_is_moved_there():
    run = served_run(batch_size=8, recipe=Recipe(quantize="int8"))
    with pytest.raises(ConfigError) as refused:
        build_inference_model(run, workload(), None, rank_coordinates(run.layout, 0, "cpu"), torch.device("cuda", 1))
    assert "quantize int8 on cuda:1" in str(refused.value)
    assert "set device: cpu" in str(refused.value)


@torch.no_grad()
def test_a_lone_linear_layer_is_quantised_too():
    served = model_of(workload(nn.Linear(16, 5)), quantize="int8")
    assert "1 linear layers" in served.notes[0]
    assert "quantized.dynamic" in type(served.module[0]).__module__


@torch.no_grad()
def test_a_batch_of_fixed_size_is_padded_with_samples_it_has():
    served = replace(model_of(workload(nn.Sequential(nn.Identity()))), fixed_size=True)
    inputs = torch.randn(3, 16)
    outputs = served((inputs,))
    assert outputs.shape == (8, 16)
    assert (outputs[:3] == inputs).all()
    assert (outputs[3:] == inputs[0]).all()


def test_channels_last_needs_images():
    with pytest.raises(ConfigError, match="without convolutions"):
        model_of(workload(), channels_last=True)
    images = Workload(
        model=nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten()),
        loss=nn.functional.mse_loss,
        dataset=TensorDataset(torch.randn(4, 2, 8, 8), torch.randn(4, 144)),
    )
    served = model_of(images, channels_last=True)
    assert served.module[0].weight.is_contiguous(memory_format=torch.channels_last)
    prepared = served._prepared(torch.randn(2, 2, 8, 8))
    assert prepared.is_contiguous(memory_format=torch.channels_last)


def test_errors_and_classes():
    one, two = torch.tensor([[1.0, 2.0], [4.0, 3.0]]), torch.tensor([[1.0, 2.4], [2.0, 3.0]])
    assert relative_error(one, one) == 0.0
    assert relative_error(two, one) == pytest.approx(2 / 4)
    assert relative_error(torch.tensor([float("nan")]), torch.tensor([1.0])) is None
    assert relative_error(one, one[:1]) is None
    assert top1_agreement(two, one, torch.tensor([0, 1])) == 0.5
    assert top1_agreement(one, one, torch.randn(2)) is None  # a regression has no classes
    tokens = torch.randn(2, 3, 7)
    assert top1_agreement(tokens, tokens, torch.zeros(2, 3, dtype=torch.long)) == 1.0
    pixels = torch.randn(2, 7, 3, 3)
    assert top1_agreement(pixels, pixels, torch.zeros(2, 3, 3, dtype=torch.long)) == 1.0


def accuracy():
    held_out = workload().dataset
    return Metric(
        name="accuracy",
        higher_is_better=True,
        dataset=held_out,
        compute=lambda outputs, targets: float((outputs.argmax(1) == targets).float().mean()),
    )


def test_answers_cover_all_samples_in_batches_and_the_held_out_ones():
    made = workload(metric=accuracy())
    sizes = []

    def answer(inputs):
        sizes.append(len(inputs[0]))
        with torch.no_grad():
            return made.model(*inputs)

    found = answers(made, answer, 16, 25)
    assert sizes == [16, 16, 8, 16, 9]
    with torch.no_grad():
        assert torch.allclose(found.outputs, made.model(made.dataset.tensors[0]))
    chosen = [index * 40 // 25 for index in range(25)]
    assert found.metric == accuracy().compute(found.outputs[chosen], made.dataset.tensors[1][chosen])


def test_parity_is_with_the_model_pruned_alike_and_outputs_with_the_unchanged_one():
    made = workload(metric=accuracy())
    run = served_run(recipe=Recipe(prune="2:4"), min_top1_agreement=0.0)
    plain = serial_answers(run, workload(metric=accuracy()), CPU, pruned=False)
    alike = serial_answers(run, workload(metric=accuracy()), CPU, pruned=True)
    found = compare(run, alike, 0.0, alike, plain, made)
    assert found.parity.passed
    assert found.parity.max_rel_err == 0.0
    assert found.outputs.max_rel_err.value > 0.01
    assert 0 < found.outputs.top1_agreement.value < 1
    assert found.outputs.metric_of_reference.value == plain.metric
    assert found.metric.value == alike.metric


def test_a_wrong_replica_and_lost_accuracy_fail_parity():
    made = workload()
    run = served_run()
    right = serial_answers(run, workload(), CPU, pruned=False)
    assert compare(run, right, 0.0, right, right, made).parity.passed
    apart = compare(run, right, 0.5, right, right, made).parity
    assert not apart.passed
    assert "differ by 0.5" in apart.reason
    broken = Answers(outputs=right.outputs * float("nan"), count=right.count, metric=None, metric_reason="no metric")
    assert "not finite" in compare(run, broken, 0.0, right, right, made).parity.reason
    other = Answers(outputs=-right.outputs, count=right.count, metric=None, metric_reason="no metric")
    lost = compare(run, other, 0.0, other, right, made).parity
    assert not lost.passed
    assert "infer.min_top1_agreement is 90.0%" in lost.reason
