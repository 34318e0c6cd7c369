"""Every option of a recipe does what it says, seen without ranks."""

import os

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from hpc_accel.errors import ConfigError
from hpc_accel.parallel.apply import parallelize
from hpc_accel.parallel.mesh import rank_coordinates
from hpc_accel.runtime.batches import Collate, ShareSampler, share_loader
from hpc_accel.runtime.optimizer import make_optimizer
from hpc_accel.runtime.precision import AUTOCAST, arithmetic
from hpc_accel.study.layout import Layout
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Recipe
from hpc_accel.workloads.batch import BatchRules
from hpc_accel.workloads.parameter_groups import group_parameters
from hpc_accel.workloads.workload import Workload

ALONE = rank_coordinates(Layout(micro_batch_size=4, accumulation_steps=1), 0, "cpu")
CPU = torch.device("cpu")
COLLATE = Collate(BatchRules(collate=None, target=(), has_loss=True), 4)


def block():
    return nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU())


def prepared(model, **recipe):
    workload = Workload(model=model, loss=nn.functional.mse_loss, dataset=TensorDataset(torch.ones(4, 8)))
    asked = Recipe(**recipe)
    dtype = AUTOCAST[asked.precision]
    return parallelize(workload, None, ALONE, CPU, loss=workload.loss, recipe=asked, autocast_dtype=dtype).module


def kept_elements(module):
    kept = 0

    def keep(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(torch.ones(16, 8, requires_grad=True)).sum()
    return kept


def test_recomputation_keeps_less_and_gives_the_same_gradients():
    torch.manual_seed(0)
    plain = nn.Sequential(block(), block(), block())
    kept, gradients = {}, {}
    for kind in ("none", "selective", "full"):
        model = nn.Sequential(block(), block(), block())
        model.load_state_dict(plain.state_dict())
        module = prepared(model, recompute=kind)
        kept[kind] = kept_elements(module)
        module(torch.arange(32.0).view(4, 8)).square().sum().backward()
        gradients[kind] = [parameter.grad for parameter in module.parameters()]
    assert kept["full"] < kept["none"]
    for kind in ("selective", "full"):
        for mine, wanted in zip(gradients[kind], gradients["none"], strict=True):
            torch.testing.assert_close(mine, wanted)


def test_selective_recomputation_computes_no_matrix_product_twice():
    counts = {}
    for kind in ("selective", "full"):
        module = prepared(nn.Sequential(block()), recompute=kind)
        with Products(torch.ops.aten.addmm.default) as products:
            module(torch.ones(4, 8, requires_grad=True)).sum().backward()
        counts[kind] = products.count
    assert counts["full"] == counts["selective"] + 2


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts an operation."""

    def __init__(self, operation):
        super().__init__()
        self.operation, self.count = operation, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is self.operation
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("layer", "order"), [(nn.Conv2d, torch.channels_last), (nn.Conv3d, torch.channels_last_3d)])
def test_channels_last_orders_weights(layer, order):
    module = prepared(nn.Sequential(layer(4, 8, 3)), channels_last=True)
    assert module[0].weight.is_contiguous(memory_format=order)
    assert not module[0].weight.is_contiguous()


@pytest.mark.parametrize("recipe", [{}, {"precision": "bf16"}, {"precision": "bf16", "offload": "activations"}])
def test_compile_makes_one_graph_of_the_whole_model(recipe):
    """Autocast around the model, or hooks on saved tensors, would cut it into a graph for each layer."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    module = prepared(nn.Sequential(block(), block()), compile=True, **recipe)
    module(torch.ones(4, 8)).float().sum().backward()
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_optimizers_step_alike(name):
    stepped = {}
    for fused in (False, True):
        weight = nn.Parameter(torch.linspace(-1, 1, 64))
        holder = nn.ParameterDict({"weight": weight})
        grouping = group_parameters(Optimizer(name=name, learning_rate=0.1), holder)
        optimizer = make_optimizer(grouping, [("weight", weight)], ALONE, fused=fused)
        assert bool(optimizer.param_groups[0]["fused"]) == fused
        for _ in range(3):
            weight.grad = weight.detach().square()
            optimizer.step()
        stepped[fused] = weight.detach().clone()
    torch.testing.assert_close(stepped[True], stepped[False])


class Processes(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor(os.getpid()), torch.tensor(index)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_workers_load_in_processes_of_their_own(num_workers):
    sampler = ShareSampler(8, 4, start=0, share=4, seed=0)
    batches = share_loader(Processes(), sampler, COLLATE, num_workers=num_workers)
    (batch,) = next(batches).micro_batches
    (processes,), indices = batch.args, batch.targets
    assert (int(processes[0]) != os.getpid()) == bool(num_workers)
    assert indices.tolist() == next(iter(ShareSampler(8, 4, start=0, share=4, seed=0)))


def test_a_data_set_that_cannot_be_sent_to_workers_is_refused():
    class Local(Processes):
        pass

    with pytest.raises(ConfigError, match="cannot be pickled"):
        next(share_loader(Local(), ShareSampler(8, 4, start=0, share=4, seed=0), COLLATE, num_workers=1))


def test_tf32_holds_inside_only():
    before = torch.get_float32_matmul_precision()
    with arithmetic("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    with arithmetic("fp32"):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == before


def test_float8_layers_compute_nearly_the_same():
    pytest.importorskip("torchao.float8", reason="needs torchao: pip install 'hpc-accel[fp8]'")
    from hpc_accel.parallel.float8 import use_float8

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    inputs = torch.randn(16, 32)
    wanted = model(inputs)
    assert use_float8(model, CPU, emulate=True) is model
    assert type(model[0]).__name__ == "Float8Linear"
    assert type(model[2]) is nn.Linear, "10 outputs do not fit the hardware's products"
    error = (model(inputs) - wanted).norm() / wanted.norm()
    assert 0 < error < 0.1


def test_a_model_that_is_a_linear_layer_computes_in_float8_too():
    pytest.importorskip("torchao.float8", reason="needs torchao: pip install 'hpc-accel[fp8]'")
    from hpc_accel.parallel.float8 import use_float8

    model = nn.Linear(32, 64)
    converted = use_float8(model, CPU, emulate=True)
    assert type(converted).__name__ == "Float8Linear"
    assert converted.weight is model.weight, "whoever has the model's parameters trains these"


@pytest.mark.parametrize("rows", [1, 8, 24])
def test_any_number_of_rows_makes_products_that_the_hardware_takes(monkeypatch, rows):
    """A head on one token of each sample has as many rows as the micro-batch; its weight's gradient adds them up."""
    pytest.importorskip("torchao.float8", reason="needs torchao: pip install 'hpc-accel[fp8]'")
    from hpc_accel.parallel.float8 import MULTIPLE, use_float8

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    scaled_mm, inner = torch._scaled_mm, []

    def checked(one, other, **options):  # as a GPU checks it; the CPU's product takes any size
        assert not one.shape[1] % MULTIPLE and not other.shape[1] % MULTIPLE
        inner.append(one.shape[1])
        return scaled_mm(one, other, **options)

    monkeypatch.setattr(torch, "_scaled_mm", checked)
    torch.manual_seed(0)
    model = nn.Linear(32, 64)
    inputs = torch.randn(rows, 32)
    model(inputs).square().sum().backward()
    wanted, model.weight.grad = model.weight.grad, None
    use_float8(model, torch.device("cuda"))(inputs).square().sum().backward()
    padded = -(-rows // MULTIPLE) * MULTIPLE
    assert inner == [32, 64, padded], "forward, the inputs' gradient, and the weight's"
    assert (model.weight.grad - wanted).norm() / wanted.norm() < 0.1


class ScaledProduct(torch.autograd.Function):
    """A float8 product whose result is needed again in backward, as float8 layers make them."""

    @staticmethod
    def forward(ctx, states, weight):
        one = torch.ones(())
        parts = states.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn)
        result = torch._scaled_mm(parts[0], parts[1].t(), scale_a=one, scale_b=one, out_dtype=torch.float32)
        ctx.save_for_backward(weight)
        return result

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ ctx.saved_tensors[0], None


def test_selective_recomputation_computes_no_float8_product_twice():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 16))

        def forward(self, states):
            return ScaledProduct.apply(states, self.weight).sin().sin()

    counts = {}
    for kind in ("selective", "full"):
        module = prepared(nn.Sequential(nn.Sequential(Layer(), nn.GELU())), recompute=kind)
        with Products(torch.ops.aten._scaled_mm.default) as products:
            module(torch.ones(16, 16, requires_grad=True)).sum().backward()
        counts[kind] = products.count
    assert counts == {"selective": 1, "full": 2}


@pytest.mark.parametrize("kind", ["full", "selective"])
def test_a_recomputed_block_that_writes_into_its_input_computes_the_same(kind):
    """SiLU in place is not what it was when it is done twice."""

    def gradients(recompute):
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.SiLU(inplace=True), nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(2)]
        module = prepared(nn.Sequential(nn.Linear(8, 8), *layers), recompute=recompute)
        for _ in range(2):
            module(torch.linspace(-1, 1, 32).view(4, 8)).square().sum().backward()
        return [each.grad for each in module.parameters()] + [each.clone() for each in module.buffers()]

    for found, wanted in zip(gradients(kind), gradients("none"), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_recomputed_block_writes_no_cache():
    """Keys and values would be appended twice, by the pass whose results count and by that in backward."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model("gpt2", n_layer=2, n_embd=8, n_head=2, vocab_size=9, n_positions=4)
    module = prepared(transformers.AutoModelForCausalLM.from_config(config), recompute="full")
    module(input_ids=torch.ones(2, 4, dtype=torch.long)).logits.sum().backward()
    assert all(each.grad is not None for each in module.parameters())
