"""The catalogue, sites and Slurm's answers."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime, timedelta

import pytest

from hpc_accel.errors import ConfigError, UsageError
from hpc_accel.plan.advise import queue
from hpc_accel.plan.advise.ask import _device_called, currency_of, places_asked, unclear_partitions
from hpc_accel.plan.advise.catalogue import Device, catalogue, device_of
from hpc_accel.plan.advise.cli import amount
from hpc_accel.plan.advise.data_sheet import machine_of
from hpc_accel.plan.advise.models import MODELS, model_of
from hpc_accel.plan.advise.options import options_of
from hpc_accel.plan.advise.question import Question, place_of, weights_of
from hpc_accel.plan.shipped import hardware_of, shipped_names
from tests.cli.test_mistakes import COMMAND
from tests.mpirun import ROOT


def test_every_figure_has_its_source():
    for device in catalogue().values():
        assert device.figures, device.name
        for name, (value, source) in device.figures.items():
            assert value > 0 and "http" in device.sources[source], (device.name, name)
    content = device_of("v100").model_dump()
    content["board_power_w"] = (300, "hearsay")
    with pytest.raises(ValueError, match="hearsay"):
        Device.model_validate(content)


def test_the_catalogue_agrees_with_the_hardware_files():
    planned = {each.planned_as: each for each in catalogue().values() if each.planned_as}
    assert sorted(planned) == shipped_names()
    for name, device in planned.items():
        kind = hardware_of(name).slowest
        assert kind.memory_bandwidth_bytes_per_s == pytest.approx(device.memory_bandwidth_bytes_per_s[0], rel=0.05)
        assert kind.device_memory_bytes == pytest.approx(device.memory_bytes[0], rel=0.08)
        half = device.peak_flops_per_s.get("bf16") or device.peak_flops_per_s["fp16"]
        assert kind.matmul_flops_per_s["fp16"] <= half[0]


def test_a_sheet_with_too_little_is_refused():
    assert machine_of(device_of("mi355x")).slowest.matmul_flops_per_s["bf16"] == pytest.approx(0.65 * 2.5166e15)
    with pytest.raises(ConfigError, match="a peak rate"):
        machine_of(device_of("epyc-9654"))
    with pytest.raises(ConfigError, match="h100-sxm"):
        device_of("h100sxm")


def test_models_have_the_parameters_of_their_names():
    billions = {"gpt2-1.5b": 1.56, "gpt3-175b": 175, "llama2-7b": 6.74, "llama2-70b": 69.0, "llama3-8b": 8.03}
    for name, wanted in billions.items():
        assert model_of(name, 8).num_parameters / 1e9 == pytest.approx(wanted, rel=0.005), name
    sized = model_of("layers=12,hidden=768,heads=12,sequence=1024,positions=1024,dropout=false", 8)
    assert sized.num_parameters == model_of("gpt2-124m", 8).num_parameters
    for wrong in ("gpt5", "layers=2,width=8", "layers=2,hidden=10,heads=3,sequence=8"):
        with pytest.raises(ConfigError):
            model_of(wrong, 8)
    assert len(MODELS) > 5


def test_amounts_and_weights():
    assert [amount(each, "--tokens") for each in ("300B", "1.5T", "2e9", "7")] == [3e11, 1.5e12, 2e9, 7]
    with pytest.raises(UsageError):
        amount("many", "--tokens")
    assert weights_of("time=1,cost=2") == {"time": 1, "cost": 2}
    assert weights_of("time=0,cost=2") == {"cost": 2}
    for wrong in ("beauty", "time=nan", "time=inf", "time=0", "time=0,cost=0", "time=-1"):
        with pytest.raises(ConfigError):
            weights_of(wrong)


def shell(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=120, check=False)


SITE = """
about: a test
scheduler: slurm
currency: CHF
partitions:
  fast: {gpu_type: h200, gpus_per_node: 4, num_nodes: 6, price_per_node_hour: 9.5,
         power_w_per_node: 3000, max_time_min: 1440}
  old: {gpu_type: a100, gpus_per_node: 4}
  cpu: {cpus_per_node: 64}
"""


def test_partitions_of_a_site(tmp_path):
    path = tmp_path / "here.yaml"
    path.write_text(SITE)
    [fast] = places_asked([], str(path), 16, {}, None, ())
    assert (fast.partition, fast.max_nodes, fast.price_per_node_hour, fast.node_power_w) == ("fast", 6, 9.5, 3000)
    assert fast.hardware.ranks_per_node == 4 and fast.max_hours == 24
    both = places_asked(["old=a100-sxm-40gb"], str(path), 16, {}, None, ())
    assert [each.partition for each in both] == ["fast", "old"], "an A100 has 40 or 80 GB: only the user knows"
    [left] = unclear_partitions(str(path), [])
    assert left.place == "old" and "--on old=DEVICE" in left.why
    assert unclear_partitions(str(path), ["old=a100-sxm-40gb"]) == []
    assert currency_of(str(path), "") == "CHF" and currency_of("", "") == "EUR"
    with pytest.raises(ConfigError, match="CHF"):
        currency_of(str(path), "USD")
    [paid] = places_asked([], str(path), 16, {"h200-sxm": 3.0}, None, ())
    assert paid.price_per_node_hour == 3.0, "what is said now replaces the site's"
    for on, prices in ((["h200"], {}), (["new=h200-sxm"], {}), ([], {"v100": 1.0})):
        with pytest.raises(ConfigError, match=r"--on|--price"):
            places_asked(on, str(path), 16, prices, None, ())


def test_what_slurm_calls_a_device():
    called = {
        "nvidia_h100_80gb_hbm3": "h100-sxm",
        "nvidia_h100_pcie": "h100-pcie",
        "nvidia_a100-sxm4-40gb": "a100-sxm-40gb",
        "nvidia_a100_80gb_pcie": "a100-pcie-80gb",
        "tesla_v100-sxm2-32gb": "v100",
        "h200": "h200-sxm",
        "mi250x": "mi250x",
    }
    assert {name: _device_called(name) for name in called} == called
    for unclear in ("a100", "h100", "tesla_v100-sxm2-16gb", "nvidia_h100_80gb_hbm3_1g.10gb", "80gb", "gpu", ""):
        assert _device_called(unclear) is None, unclear


def test_a_partition_of_other_nodes_than_the_usual(tmp_path):
    """Power and adapters follow the number of devices, and the place says what it assumes."""
    path = tmp_path / "here.yaml"
    kinds = {"four": ("v100", 4), "usual": ("v100", 8), "boards": ("l40s", 4), "many": ("l40s", 8)}
    rows = [f"  {name}: {{gpu_type: {device}, gpus_per_node: {count}}}" for name, (device, count) in kinds.items()]
    path.write_text("about: a test\nscheduler: slurm\npartitions:\n" + "\n".join(rows) + "\n")
    four, usual, boards, many = places_asked([], str(path), 16, {}, None, ())
    assert (four.node_power_w, usual.node_power_w) == pytest.approx((0.76 * 3500 / 2, 0.76 * 3500))
    assert (boards.node_power_w, many.node_power_w) == pytest.approx((0.76 * 350 * 4 / 0.7, 0.76 * 350 * 8 / 0.7))
    assert [each.hardware.network.inter_node.lanes for each in (four, usual, boards, many)] == [2, 4, 2, 4]
    assert {point.ranks for point in many.hardware.network.intra_node.allreduce} == {2, 4, 8}
    assert "adapters in proportion to 4 of 8 devices" in four.assumed and not usual.assumed
    [alone] = places_asked(["l40s"], "", 16, {}, None, ())
    assert alone.hardware.ranks_per_node == 4 and "nodes of 4 devices" in alone.assumed


def own_machine(path, **changed) -> str:
    content = json.loads((ROOT / "tests/cli/hardware.json").read_text())
    for kind in content["node_kinds"]:
        kind |= {"power_w": 700.0, "power_w_reason": None}
    path.write_text(json.dumps(content | changed))
    return str(path)


def test_probed_power_is_of_whole_nodes_or_not_used(tmp_path):
    sensor = {"name": "one", "available": True}
    whole = place_of(own_machine(tmp_path / "a.json", sensors=[sensor | {"scope": "node"}]), max_nodes=1)
    part = place_of(own_machine(tmp_path / "b.json", sensors=[sensor | {"scope": "gpu-board"}]), max_nodes=1)
    assert (whole.node_power_w, whole.power_measured) == (700.0, True)
    assert part.node_power_w is None and "700 W of GPU boards alone" in part.power_reason


def test_two_machines_of_one_site_are_two_places(tmp_path):
    """Each is predicted by its own rates, in whatever order they are named."""
    fast, slow = own_machine(tmp_path / "fast.json"), tmp_path / "slow.json"
    content = json.loads((tmp_path / "fast.json").read_text())
    for level in [level for kind in content["node_kinds"] for level in (kind, *kind.get("levels", ()))]:
        for key in ("memory_bandwidth_bytes_per_s",):
            level[key] /= 4
        for key in ("kernel_overhead_s", "backward_overhead_s"):
            level[key] = level[key] * 4 if level.get(key) else level.get(key)
    slow.write_text(json.dumps(content))
    model = model_of("layers=2,hidden=64,heads=2,sequence=64,vocabulary=512", 8)
    hours = []
    for on in ([fast, str(slow)], [str(slow), fast]):
        places = places_asked(on, "", 1, {}, None, ())
        question = Question(model=model, num_samples=1e6, places=places, weights={"time": 1}, precision="fp32")
        found, _ = options_of(question)
        hours.append({each.place.name: each.hours.value for each in found})
    assert hours[0] == hours[1] and hours[0][f"local ({slow})"] > 1.5 * hours[0][f"local ({fast})"]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands that answer as Slurm's do, and keep what they were asked."""
    start = (datetime.now() + timedelta(hours=3)).strftime("%Y-%m-%dT%H:%M:%S")
    answers = {
        "sbatch": f"sbatch: Job 7 to start at {start} using 8 processors on nodes n1 in partition fast",
        "sshare": "root||0|\nproj|0.25|7200000|billing=180000,gres/gpu=60",
    }
    for name, text in answers.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho \"$@\" >{tmp_path}/{name}.asked\ncat <<'END'\n{text}\nEND\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_slurm_says_when_and_what_is_left(slurm):
    wait = queue.start_wait(partition="fast", num_nodes=2, ranks_per_node=4, gpus_per_node=4, hours=1.5)
    assert wait.hours == pytest.approx(3, abs=0.01)
    asked = (slurm / "sbatch.asked").read_text().split()
    assert {"--test-only", "--nodes=2", "--time=90", "--partition=fast", "--gres=gpu:4"} <= set(asked)
    known, why = queue.accounts()
    assert why is None
    mine = known[-1]
    assert (mine.name, mine.fair_share, mine.used_hours, mine.limit_hours) == ("proj", 0.25, 2000, 3000)
    assert mine.left_hours == 1000


def test_slurm_that_refuses_or_is_not_here(slurm, monkeypatch):
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'allocation failure: Invalid partition' >&2\nexit 1\n")
    refused = queue.start_wait(partition="no", num_nodes=1, ranks_per_node=1, gpus_per_node=0, hours=1)
    assert refused.hours is None and "Invalid partition" in refused.reason
    monkeypatch.setenv("PATH", str(slurm / "nothing"))
    assert queue.accounts() == ([], "sshare is not here")


def test_the_command(tmp_path, slurm):
    site = tmp_path / "here.yaml"
    site.write_text(SITE)
    asked = ["advise", "--model", "gpt2-124m", "--tokens", "10B", "--site", str(site), "--max-nodes", "2"]
    done = shell(*asked, "--objective", "cost", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["currency"] == "CHF" and found["impossible"][0]["place"] == "old"
    assert found["best"]["partition"] == "fast" and found["queue_wait"]["hours"] > 2
    assert found["accounts"][-1]["left_hours"] == 1000
    told = shell(*asked)
    assert "what would change the answer" in told.stdout and "account proj" in told.stdout
    nothing = shell(*asked, "--deadline-h", "1e-6")
    assert nothing.returncode == 1 and "nothing fits" in nothing.stdout
    told = shell(*asked, "--json", "--deadline-h", "-1")
    assert told.returncode == 64 and "positive" in told.stderr
    twice = shell(*asked, "--samples", "1000")
    assert twice.returncode == 64 and "--tokens and --samples" in twice.stderr
    unread = shell("advise", "--node-hours", "500", "--model", "gpt2-124m", "--on", "h100-sxm")
    assert unread.returncode == 64 and "--model" in unread.stderr
    wrong = shell("advise", "--model", "gpt2-124m")
    assert wrong.returncode == 64 and "--tokens" in wrong.stderr
    assert "mi355x" in shell("advise", "--list").stdout


def test_a_study_on_a_machine_of_ones_own(tmp_path):
    """Its first workload and recipe, on what a probe measured: of a node with fewer cores than ranks, a part."""
    path = tmp_path / "mine.yaml"
    path.write_text("workload: {name: digits, global_batch_size: 64}\nrecipes: [{precision: fp32}]\n")
    machine = str(ROOT / "tests/cli/hardware.json")
    done = shell("advise", str(path), "--samples", "1M", "--on", machine, "--max-nodes", "1", "--json")
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout)["best"]
    assert best["recipe"]["precision"] == "fp32" and best["num_nodes"] == 1
    assert best["hours"]["value"] == pytest.approx(1e6 / 64 * best["step_time_ms"] / 3.6e6)
    assert shell("advise", str(path), "--tokens", "1M").returncode == 64, "an image has no tokens"
