"""What `device` means is one decision: the launch, the rules and the utilisation agree, with and without GPUs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from hpc_accel.errors import ConfigError
from hpc_accel.runtime.device import choose_device, gpu_uuids, unused_gpus_here
from hpc_accel.study.devices import on_gpus, unused_gpus
from hpc_accel.study.expand import listed_runs
from hpc_accel.study.rules import refusals
from hpc_accel.study.run import Run
from hpc_accel.study.study_file import ResourcesChoice, Study
from hpc_accel.train import utilisation
from tests.study.test_expand import facts


class Ranks:
    """A communicator whose other ranks found `uuids`."""

    def __init__(self, *uuids: str) -> None:
        self.uuids = uuids

    def allgather(self, uuid: str | None) -> list[str | None]:
        return [uuid, *self.uuids]


@pytest.fixture
def gpus(monkeypatch):
    """Torch as it is where it sees two GPUs; the list of devices made current."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"gpu{device.index}"))
    return current


def make_run(device: str = "auto", gpus_per_node: int = 0, **content) -> Run:
    study = Study.model_validate(
        {
            "name": "example",
            "workload": {"name": "digits"},
            "layouts": [{"dp": 2}],
            "resources": {"ranks_per_node": 2, "gpus_per_node": gpus_per_node},
            "device": device,
            **content,
        }
    )
    return next(listed_runs(study, study.workloads[0], facts()))


def refused(run: Run) -> list[str]:
    limits = ResourcesChoice(ranks_per_node=2, gpus_per_node=run.resources.gpus_per_node)
    return [str(error) for error in refusals(run, limits, facts())]


@pytest.mark.parametrize(
    ("device", "gpus_per_node", "expected"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda:1"), ("cpu", 2, "cpu"), ("cuda", 0, "cuda:1"), ("cuda", 2, "cuda:1")],
)
def test_a_rank_takes_what_the_study_says_whatever_torch_sees(gpus, device, gpus_per_node, expected):
    run = make_run(device, gpus_per_node)
    chosen = choose_device(run, gpus_per_node, 1, Ranks("gpu0"))
    assert str(chosen) == expected
    assert gpus == ([chosen] if chosen.type == "cuda" else [])
    assert on_gpus(device, gpus_per_node) == (chosen.type == "cuda")


@pytest.mark.parametrize(("device", "gpus_per_node"), [("auto", 2), ("cuda", 0), ("cuda", 2)])
def test_a_rank_without_its_gpu_ends(monkeypatch, device, gpus_per_node):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no") as caught:
        choose_device(make_run(device, gpus_per_node), gpus_per_node, 0, Ranks())
    assert "make env ACCEL=cuda" in caught.value.remedy


def test_ranks_share_a_gpu_only_where_the_study_says_so(gpus):
    assert choose_device(make_run("cuda"), 0, 0, Ranks("gpu0")).index == 0
    with pytest.raises(ConfigError, match=r"2 ranks see 1 different GPU"):
        choose_device(make_run("cuda", 2), 2, 0, Ranks("gpu0"))


def test_gpus_that_auto_leaves_alone_are_told_with_the_remedy(gpus):
    said = unused_gpus_here(make_run())
    assert said is not None and "sees 2 GPU(s)" in said and "set resources.gpus_per_node" in said
    assert unused_gpus_here(make_run("cpu")) is None
    assert unused_gpus_here(make_run("auto", 2)) is None
    assert unused_gpus("auto", 0, 0) is None


@pytest.mark.parametrize(
    "recipe", [{"pin_memory": True}, {"precision": "tf32"}, {"offload": "activations"}, {"gpu_freq_mhz": 900}]
)
def test_options_of_gpus_are_allowed_exactly_where_ranks_compute_on_gpus(recipe):
    for device, gpus_per_node in (("auto", 0), ("cpu", 2), ("auto", 2), ("cuda", 0)):
        found = [
            error for error in refused(make_run(device, gpus_per_node, recipes=[recipe])) if "without GPUs" in error
        ]
        # Clocks are set on GPUs that were asked for, not on those a run only uses.
        allowed = on_gpus(device, gpus_per_node) and ("gpu_freq_mhz" not in recipe or gpus_per_node > 0)
        assert bool(found) != allowed, (device, gpus_per_node)


def test_gpus_nobody_asked_for_are_shared_on_this_machine_only():
    assert refused(make_run("cuda")) == []
    assert any("must be requested" in error for error in refused(make_run("cuda", site="generic-slurm")))
    assert any("nccl without GPUs" in error for error in refused(make_run("cuda", backend="nccl")))


def test_utilisation_counts_gpus_and_not_the_ranks_that_share_them(gpus, tmp_path):
    kind = {"device": "cuda", "matmul_flops_per_s": {"fp32": 1e12}}
    (tmp_path / "hardware.json").write_text(json.dumps({"site": "local", "node_kinds": [kind]}))
    run, directory = make_run("cuda"), tmp_path / "runs" / "r"
    uuids = gpu_uuids(torch.device("cuda", 0), Ranks("gpu0"))

    def found(run: Run, num_gpus: int | None):
        return utilisation.flops_facts(run, directory, "cuda", 10**9, "", 10.0, num_gpus)

    assert found(run, len(set(uuids))).mfu.value == pytest.approx(0.1)
    assert found(make_run("cuda", 2), None).peak_flops_per_s.value == 2e12
    unknown = found(run, None)
    assert unknown.mfu.value is None and "nobody counted" in unknown.mfu.reason


def test_cpus_beside_gpus_have_no_peak_in_common(tmp_path):
    parts = [{"ranks_per_node": 1, "gpus_per_node": 1}, {"ranks_per_node": 1}]
    run = make_run(resources={"node_kinds": parts})
    found = utilisation.flops_facts(run, tmp_path, "cuda", 10**9, "", 10.0)
    assert found.mfu.value is None and "CPUs beside GPUs" in found.mfu.reason
