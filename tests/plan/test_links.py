"""Which link a prediction takes: the backend's between GPUs where it was timed, else MPI's, and then it says so."""

from __future__ import annotations

import json

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.plan.links import on_backend
from hpc_accel.plan.planner import make_plan
from hpc_accel.plan.prediction import predict
from hpc_accel.probe.hardware import Hardware, checked_hardware
from hpc_accel.study.run import Run
from tests.plan.examples import link, machine, machine_json, model, run
from tests.plan.test_planner import study

QUICK = link(1e-6, 3e11)


def probed(**network) -> Hardware:
    content = machine_json()
    content["network"] |= network
    return checked_hardware(content)


def backed(backend: str, **layout) -> Run:
    return run(**layout).model_copy(update={"backend": backend, "run_id": ""})


def test_the_backends_own_link_is_used_where_it_was_timed():
    hardware = probed(on_device={"nccl": {"intra_node": QUICK, "inter_node_reason": "one node probed"}})
    as_host, own = (predict(backed("nccl", tp=4), model(), one) for one in (machine(), hardware))
    told = [prediction.parts_ms["communication_exposed"] for prediction in (as_host, own)]
    assert told[1] < told[0] and not own.notes
    # Of another backend nothing was timed.
    assert predict(backed("mpi4py", tp=4), model(), hardware).notes


def test_hosts_link_in_its_place_is_told():
    prediction = predict(backed("nccl", tp=4), model(), machine())
    [note] = prediction.notes
    assert "not measured for nccl on GPUs" in note
    assert prediction.step_time_ms is not None and prediction.to_json()["notes"] == (note,)
    why = probed(on_device_reason={"nccl": "nccl wants a GPU for each rank"})
    assert "wants a GPU for each rank" in predict(backed("nccl", tp=4), model(), why).notes[0]


def test_nothing_is_told_where_there_are_no_messages_or_no_gpus():
    assert predict(backed("nccl"), model(), machine()).notes == ()
    cpus = machine(device="cpu")
    assert predict(run(dp=2, hardware=cpus), model(), cpus).notes == ()
    assert on_backend(cpus, "gloo") == (cpus, None)


def test_asking_twice_is_asking_once():
    hardware = probed(on_device={"nccl": {"intra_node": QUICK, "inter_node_reason": "one node probed"}})
    once, _ = on_backend(hardware, "nccl")
    assert on_backend(once, "nccl") == (once, None)
    assert once.network.intra_node.latency_s == 1e-6


def test_a_links_reason_is_the_plans_reason():
    hardware = probed(
        on_device={"nccl": {"intra_node_reason": "one rank per node probed", "inter_node_reason": "one node probed"}}
    )
    prediction = predict(backed("nccl", tp=4), model(), hardware)
    assert prediction.step_time_ms is None and "one rank per node probed" in prediction.step_time_reason


def test_a_plan_has_its_notes_once():
    content = machine_json()
    content["node_kinds"][0]["device_reason"] = "torch sees 2 GPU(s)"
    plan = json.loads(json.dumps(make_plan(study([{"dp": 2}, {"tp": 2}]), content, {"lm": model()}).to_json()))
    assert plan["notes"][0] == "torch sees 2 GPU(s)"
    assert len(plan["notes"]) == 2 and "not measured for mpi4py" in plan["notes"][1]


@pytest.mark.parametrize("network", [{"on_device": {"nccl": {"intra_node": QUICK}}}, {"on_device": {"smoke": {}}}])
def test_a_link_on_devices_is_checked_as_any_other(network):
    with pytest.raises(ConfigError, match="on_device"):
        probed(**network)


@pytest.mark.parametrize(
    ("device", "gpus", "kind", "matches"),
    [("auto", 0, "cuda", False), ("auto", 4, "cuda", True), ("cuda", 0, "cuda", True), ("auto", 4, "cpu", False)],
)
def test_a_run_is_predicted_on_what_it_will_compute_on(device, gpus, kind, matches):
    plan = make_plan(study([{"dp": 2}], gpus=gpus, device=device), machine_json(device=kind), {"lm": model()})
    [candidate] = plan.candidates
    assert (candidate.prediction.step_time_ms is not None) == matches
    assert matches or f"the probe measured {kind}" in candidate.prediction.step_time_reason
