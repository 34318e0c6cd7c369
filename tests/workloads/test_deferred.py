"""What a build() sets itself on the meta device is kept, or refused with rule and remedy; never lost."""

import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.study.expand import resolve_workload
from hpc_accel.study.run import WorkloadSpec
from hpc_accel.study.study_file import load_study
from hpc_accel.workloads import entry
from hpc_accel.workloads.facts_without_weights import facts_of

HEAD = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

DATA = TensorDataset(torch.ones(8, 8), torch.zeros(8, 8))

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.last = nn.Linear(8, 8)
        more(self)

    def forward(self, states):
        return used(self, self.last(self.first(states)))

def used(model, states):
    return states

def build():
    return Model(), nn.functional.mse_loss, DATA
"""


@pytest.fixture
def spec_of(tmp_path, monkeypatch):
    """The workload whose module's further lines are these, with `meta`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = []

    def make(lines, **fields):
        names.append(f"deferred_of_test_{len(names)}")
        (tmp_path / f"{names[-1]}.py").write_text(HEAD + textwrap.dedent(lines))
        return WorkloadSpec(name="u", entry=f"{names[-1]}:build", global_batch_size=4, meta=True, **fields)

    yield make
    for name in names:
        sys.modules.pop(name, None)


KEPT = {
    "set by hand": ("model.last.weight.data.fill_(3)", lambda m: m.last.weight, lambda: torch.full((8, 8), 3.0)),
    "copied": ("model.last.weight.data.copy_(torch.eye(8))", lambda m: m.last.weight, lambda: torch.eye(8)),
    "part by part": (
        "model.q = nn.Parameter(torch.empty(4)); model.q.data[:2].fill_(1); model.q.data[2:].fill_(2)",
        lambda m: m.q,
        lambda: torch.tensor([1.0, 1.0, 2.0, 2.0]),
    ),
    "made of values": ("model.p = nn.Parameter(torch.arange(4.0))", lambda m: m.p, lambda: torch.arange(4.0)),
    "a buffer": (
        "model.register_buffer('inv_freq', 1 / torch.arange(1.0, 5), persistent=False)",
        lambda m: m.inv_freq,
        lambda: 1 / torch.arange(1.0, 5),
    ),
    "loaded": (
        "model.last.load_state_dict({'weight': torch.eye(8), 'bias': torch.ones(8)})",
        lambda m: m.last.weight,
        lambda: torch.eye(8),
    ),
    "loaded in place of": (
        "model.last.load_state_dict({'weight': torch.eye(8), 'bias': torch.ones(8)}, assign=True)",
        lambda m: m.last.weight,
        lambda: torch.eye(8),
    ),
    "overwritten afterwards": (
        "t = torch.eye(8); model.last.weight.data.copy_(t); t.zero_()",
        lambda m: m.last.weight,
        lambda: torch.eye(8),
    ),
    "a buffer of a parameter": (
        "model.last.weight.data.fill_(2); model.register_buffer('mean', model.last.weight.detach() * 2)",
        lambda m: m.mean,
        lambda: torch.full((8, 8), 4.0),
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_a_build_sets_is_kept(spec_of, case):
    line, chosen, wanted = KEPT[case]
    spec = spec_of(f"def more(model):\n    {line}\n")
    assert torch.equal(chosen(entry.build(spec, 0).model).detach(), wanted())


REFUSED = {
    "never set": ("model.q = nn.Parameter(torch.empty(4))", r"q is made with torch\.empty and never set"),
    "set in part": (
        "model.q = nn.Parameter(torch.empty(4)); model.q.data[:2].fill_(1)",
        r"q is made with torch\.empty and never set",
    ),
    "read": ("model.n = float(model.last.weight.sum())", "meta tensors"),
    "a plain attribute": ("model.n = model.last.weight.detach() * 2", "n is computed from parameters"),
    "a hook": ("model.last.weight.register_hook(lambda gradient: gradient * 0)", "last.weight has a hook"),
    "lazy": ("model.lazy = nn.LazyLinear(4)", "no shape before the first forward pass"),
    "too much": ("model.q = nn.Parameter(torch.randn(6000, 6000))", r"makes values of 137 MiB, those of q among them"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_lost_is_refused_when_the_study_is_planned(spec_of, case):
    line, value = REFUSED[case]
    with pytest.raises(ConfigError, match=value) as error:
        facts_of(spec_of(f"def more(model):\n    {line}\n"), 0)
    assert error.value.rule
    assert error.value.remedy


LAYERS = """
def more(model):
    model.tied = nn.Linear(8, 8)
    model.tied.weight = model.first.weight
    model.embedding = nn.Embedding(9, 8, padding_idx=0)
    model.lstm = nn.LSTM(8, 8)
    model.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)
    model.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    nn.init.trunc_normal_(model.last.weight, std=0.02)
    nn.init.orthogonal_(model.lstm.weight_hh_l0)
    model.list_of_mine = [model.last.weight]
"""


def test_values_follow_from_names_and_not_from_what_else_is_filled(spec_of):
    spec = spec_of(LAYERS)
    whole = entry.build(spec, 0).model
    parts = entry.build_deferred(spec, 0)
    for module in reversed(list(parts.model.children())):
        parts.deferred.fill([module])
    for name, value in whole.state_dict().items():
        assert torch.equal(parts.model.state_dict()[name], value), name
    assert whole.tied.weight is whole.first.weight
    assert whole.list_of_mine[0] is whole.last.weight
    assert all(not each.is_meta for each in whole.lstm._flat_weights)
    assert torch.equal(whole.encoder.layers[0].linear1.weight, whole.encoder.layers[1].linear1.weight)  # copies of one
    assert 0.015 < float(whole.last.weight.std()) < 0.025
    product = whole.lstm.weight_hh_l0 @ whole.lstm.weight_hh_l0.T
    assert float((whole.lstm.weight_hh_l0.T @ whole.lstm.weight_hh_l0 - torch.eye(8)).abs().max()) < 1e-5, product
    assert not torch.equal(entry.build(spec, 1).model.first.weight, whole.first.weight)


def test_layers_are_initialised_as_torch_does(spec_of):
    spec = spec_of("def more(model):\n    model.large = nn.Linear(512, 512)\n")
    weight = entry.build(spec, 0).model.large.weight.detach()
    bound = nn.Linear(512, 512).weight.abs().max()
    assert float(weight.abs().max()) == pytest.approx(float(bound), rel=1e-3)
    assert float(weight.std()) == pytest.approx(float(nn.Linear(512, 512).weight.std()), rel=1e-2)
    assert abs(float(weight.mean())) < 1e-3


@pytest.mark.parametrize(
    "architecture", [{"architecture": "gpt2", "overrides": {"n_layer": 2, "n_embd": 32, "n_head": 2}}, {}]
)
def test_models_of_transformers_are_initialised_by_their_own_rules(architecture):
    pytest.importorskip("transformers")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    args = architecture or {"architecture": "llama", "overrides": {**small, "num_key_value_heads": 2}}
    spec = WorkloadSpec(
        name="hf", entry="hpc_accel.workloads.builtin.hf:build", args=args, global_batch_size=4, meta=True
    )
    made, plain = entry.build(spec, 0).model, entry.build_at_once(spec, 0).model
    for (name, own), (_, other) in zip(made.named_parameters(), plain.named_parameters(), strict=True):
        if float(other.std()) == 0:
            assert torch.equal(own, other), name
        else:
            assert float(own.std()) == pytest.approx(float(other.std()), rel=0.15), name
    for (name, own), (_, other) in zip(made.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(own, other), name
    tied = [
        each.model.get_output_embeddings().weight is each.model.get_input_embeddings().weight for each in (made, plain)
    ]
    assert tied[0] == tied[1]


def test_a_model_of_175_billion_parameters_is_planned_and_built_without_values():
    spec = WorkloadSpec(
        name="lm", entry="hpc_accel.workloads.builtin.lm:build", args={"size": "175B"}, global_batch_size=4, meta=True
    )
    assert facts_of(spec, 0).num_parameters > 173e9
    built = entry.build_deferred(spec, 0)
    assert sum(each.numel() for each in built.model.parameters()) > 173e9
    assert built.deferred.tape.value(built.model[96].norm_attention.weight).unique().tolist() == [1.0]


NAMES = ["first.weight", "first.bias", "last.weight", "last.bias"]
LOADED = """
def more(model):
    nn.init.normal_(model.last.weight)

def build(path):
    from hpc_accel.workloads.workload import Workload
    return Workload(model=Model(), loss=nn.functional.mse_loss, dataset=DATA, weights=path)
"""


@pytest.mark.parametrize("wrapped", ["", "model."])
def test_weights_of_files_are_read_by_name(spec_of, tmp_path, wrapped):
    path = str(tmp_path / "w.safetensors")
    saved = {name: torch.randn(8, 8) if name.endswith("weight") else torch.randn(8) for name in NAMES}
    save_file(saved, path)
    lines = LOADED if not wrapped else LOADED.replace("model=Model()", "model=nn.ModuleDict({'model': Model()})")
    spec = spec_of(lines, args={"path": path})
    for model in (entry.build(spec, 0).model, entry.build_at_once(spec, 0).model):
        for name, value in saved.items():
            assert torch.equal(model.state_dict()[wrapped + name], value)


@pytest.mark.parametrize(
    ("saved", "value"),
    [
        (dict.fromkeys(NAMES[:3], (8, 8)), r"first\.bias has shape|last\.bias and 0 more are in no file"),
        ({**dict.fromkeys(NAMES, (8,)), "first.weight": (4, 8)}, r"first\.weight has shape \[4, 8\]"),
        ({}, "are in no file"),
        (None, "weights nowhere"),
    ],
)
def test_files_that_do_not_fit_are_refused(spec_of, tmp_path, saved, value):
    path = str(tmp_path / "w.safetensors") if saved is not None else "nowhere"
    if saved is not None:
        save_file({name: torch.ones(shape) for name, shape in saved.items()}, path)
    with pytest.raises(ConfigError, match=value):
        entry.build_deferred(spec_of(LOADED, args={"path": path}), 0)


def test_weights_of_a_transformers_directory(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model("gpt2", n_layer=2, n_embd=32, n_head=2, vocab_size=256)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    args = {"weights": str(tmp_path), "sequence": 16}
    spec = WorkloadSpec(
        name="hf", entry="hpc_accel.workloads.builtin.hf:build", args=args, global_batch_size=4, meta=True
    )
    made, plain = entry.build(spec, 0).model, entry.build_at_once(spec, 0).model
    for (name, own), (_, other) in zip(made.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(own, other), name


def test_the_study_says_true_or_false(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("workload: {name: lm, meta: maybe}\n")
    with pytest.raises(ConfigError, match="meta") as error:
        load_study(path)
    assert "bool" in f"{error.value}"
    path.write_text("workload: {name: lm, meta: true}\n")
    choice = load_study(path).workloads[0]
    assert resolve_workload(choice).meta
    plain = choice.model_copy(update={"meta": False})
    assert "meta" not in resolve_workload(plain).model_dump(mode="json")
    assert resolve_workload(choice).model_dump(mode="json")["meta"] is True
