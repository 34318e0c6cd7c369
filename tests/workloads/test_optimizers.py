"""What a study says of its optimizer, on a model: names, arguments, groups, schedules, and what they cost."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.study.optimizer import Optimizer, Schedule
from hpc_accel.workloads.optimizer_facts import optimizer_facts, usual_facts
from hpc_accel.workloads.optimizers import Together, build_optimizer, parts_of
from hpc_accel.workloads.parameter_groups import group_parameters
from hpc_accel.workloads.schedules import build_schedule, factor


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Embedding(10, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 10, bias=False))
    made[3].weight = made[0].weight
    made[2].bias.requires_grad_(False)
    return made


def built(model, **spec):
    grouping = group_parameters(Optimizer(**spec), model)
    return build_optimizer(grouping, [(name, each) for name, each in model.named_parameters() if each.requires_grad])


def names_in(model, optimizer):
    names = {id(each): name for name, each in reversed(list(model.named_parameters(remove_duplicate=False)))}
    return [[names[id(each)] for each in group["params"]] for group in optimizer.param_groups]


def test_groups_are_found_by_kind_and_by_name_and_frozen_parameters_by_none(model):
    groups = [{"match": r"^2\.", "learning_rate": 0.5}]
    made = built(model, name="AdamW", weight_decay=0.1, no_decay=["norm", "bias"], groups=groups)
    assert names_in(model, made) == [["0.weight"], ["1.weight", "1.bias"], ["2.weight"]]
    assert [group["weight_decay"] for group in made.param_groups] == [0.1, 0.0, 0.1]
    assert [group["lr"] for group in made.param_groups] == [0.01, 0.01, 0.5]


def test_a_tied_weight_is_known_by_each_of_its_names(model):
    grouping = group_parameters(Optimizer(groups=[{"match": "embedding", "learning_rate": 0.5}]), model)
    assert grouping.where["3.weight"] == grouping.where["0.weight"] == (0, 1)
    assert "2.bias" not in grouping.where


def test_a_group_keeps_its_place_where_a_rank_holds_none_of_it(model):
    grouping = group_parameters(Optimizer(no_decay=["norm"], weight_decay=0.1), model)
    made = build_optimizer(grouping, [("1.bias", model[1].bias)])
    assert [len(group["params"]) for group in made.param_groups] == [0, 1]


def test_several_optimizers_step_as_one(model):
    made = built(model, name="muon", groups=[{"match": "norm", "name": "adamw"}, {"match": "^0", "name": "sgd"}])
    assert isinstance(made, Together)
    assert [type(part).__name__ for part in parts_of(made)] == ["Muon", "AdamW", "SGD"]
    course = build_schedule(Schedule(name="linear", total_steps=4), made)
    before = [each.detach().clone() for each in model.parameters()]
    for each in model.parameters():
        each.grad = torch.ones_like(each)
    made.step()
    course.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert moved == [True, True, True, True, False], "all but the frozen one"
    assert [group["lr"] for part in parts_of(made) for group in part.param_groups] == [0.00075, 0.0075, 0.0075]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"name": "lion"}, "did you mean muon"),
        ({"name": "adamm"}, "did you mean adam"),
        ({"name": "LBFGS"}, "computes the loss several times in a step"),
        ({"name": "muon"}, "Muon only supports 2D parameters"),
        ({"name": "sparseadam"}, "does not support dense gradients"),
        ({"name": "adam", "args": {"bettas": [0.9, 0.95]}}, "unexpected keyword argument 'bettas'"),
        ({"name": "adam", "args": {"betas": [0.9, 1.95]}}, "Invalid beta parameter"),
        ({"name": "rprop", "no_decay": ["norm"]}, "a group sets weight_decay, which this optimizer does not know"),
        ({"groups": [{"match": "head"}]}, "group 'head' matches no parameter"),
        ({"groups": [{"match": "bias", "args": {"nestorov": True}}]}, "sets nestorov, which this optimizer does not"),
        ({"name": "no.module:here"}, "No module named 'no'"),
        ({"name": "torch:zeros_like"}, "TypeError"),
        ({"name": "builtins:list"}, "no torch.optim.Optimizer"),
        ({"schedule": {"name": "cosin"}}, "did you mean cosine"),
        ({"schedule": {"name": "ReduceLROnPlateau"}}, "waits for a metric"),
        ({"schedule": {"name": "StepLR", "args": {"step": 3}}}, "unexpected keyword argument 'step'"),
    ],
)
def test_what_is_wrong_is_told_when_a_run_is_planned(model, spec, told):
    if "bias" in str(spec):
        model[2].bias.requires_grad_(True)
    with pytest.raises(ConfigError) as error:
        optimizer_facts(Optimizer(**spec), model)
    assert told in str(error.value)
    assert error.value.rule and error.value.remedy


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"args": {"lr": 0.1}}, "lr stands beside args, as learning_rate"),
        ({"args": {"fused": True}}, "fused_optimizer"),
        ({"name": "adamw", "momentum": 0.9}, "adamw has its own"),
        ({"groups": [{"match": "("}]}, "a regular expression"),
        ({"name": "a b"}, "a class of torch.optim"),
        ({"schedule": {"name": "constant", "min_factor": 0.1}}, "constant never falls"),
        ({"schedule": {"name": "steplr", "warmup_steps": 3}}, "takes its own in args"),
        ({"schedule": {"name": "cosine", "warmup_steps": 3, "total_steps": 3}}, "warm-up is a part of total_steps"),
        ({"schedule": {"name": "inverse_sqrt", "total_steps": 3}}, "has no end"),
        ({"clip_grad_norm": 0}, "greater than 0"),
    ],
)
def test_what_needs_no_model_is_told_when_the_study_is_read(spec, told):
    with pytest.raises(ValidationError, match=told):
        Optimizer(**spec)


def test_state_and_operations_are_measured(model):
    assert usual_facts(Optimizer()).state_bytes_per_parameter == 0
    assert usual_facts(Optimizer(momentum=0.9)).state_bytes_per_parameter == 4
    for name, kept in (("adamw", 8), ("adagrad", 4), ("nadam", 8), ("rmsprop", 4)):
        assert optimizer_facts(Optimizer(name=name), model).state_bytes_per_parameter == kept
    assert optimizer_facts(Optimizer(name="adafactor"), model).state_bytes_per_parameter < 1
    few, many = usual_facts(Optimizer()), usual_facts(Optimizer(name="adamw"))
    assert (few.operations_per_tensor, many.operations_per_tensor) == (1, 9)
    assert few.keeps_groups
    own = Optimizer(name="tests.train.optimizers:by_name", args={"slow": "1"})
    assert not optimizer_facts(own, model).keeps_groups


def test_sparse_gradients_have_an_optimizer_of_their_own():
    model = nn.Sequential(nn.Embedding(10, 16, sparse=True), nn.Linear(16, 4))
    spec = Optimizer(name="adam", groups=[{"match": "embedding", "name": "SparseAdam"}])
    assert optimizer_facts(spec, model).state_bytes_per_parameter == 8
    for dense in ({"name": "adamw"}, {"weight_decay": 0.1}):
        with pytest.raises(ConfigError, match="sparse"):
            optimizer_facts(Optimizer(**dense), model)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [0.5, 1, 1, 0.88284, 0.6, 0.31716, 0.2]),
        ("inverse_sqrt", [0.5, 1, 0.81650, 0.70711, 0.63246, 0.57735, 0.53452]),
        ("one_cycle", [0.04, 0.52, 1, 0.88284, 0.6, 0.31716, 0.2]),
    ],
)
def test_courses(name, wanted):
    spec = Schedule(name=name, warmup_steps=2, min_factor=0.0 if name == "constant" else 0.2).ending_after(6)
    assert [factor(spec, step) for step in range(7)] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "args"),
    [("ExponentialLR", {"gamma": 0.7}), ("CosineAnnealingLR", {"T_max": 9}), ("multisteplr", {"milestones": [2, 4]})],
)
def test_a_course_goes_on_where_it_was(model, name, args):
    spec = Schedule(name=name, args=args)
    whole, again = (built(model, no_decay=["norm"], weight_decay=0.1) for _ in range(2))
    course, later = build_schedule(spec, whole), build_schedule(spec, again)
    for _ in range(5):
        whole.step()
        course.step()
    later.go_to(5)
    assert [group["lr"] for group in again.param_groups] == [group["lr"] for group in whole.param_groups]
    assert whole.param_groups[0]["lr"] != 0.01


def test_a_course_with_an_end_stays_there(model):
    spec = Schedule(name="onecyclelr", args={"max_lr": 0.1, "total_steps": 3, "cycle_momentum": False})
    made = built(model)
    course = build_schedule(spec, made)
    course.go_to(10)
    assert made.param_groups[0]["lr"] == pytest.approx(0.1 / 25 / 1e4)
