"""What an export keeps and says that it cannot keep, and three real steps of each that installs on a CPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.produce.export.files import accelerate_config, deepspeed_config, refuse_stream, write_export
from hpc_accel.produce.export.mapping import rows_of, set_fields
from hpc_accel.produce.export.rules import FRAMEWORKS, nodes_of
from hpc_accel.study.layout import Layout
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec
from tests.cli.test_mistakes import COMMAND
from tests.mpirun import ENVIRONMENT, ROOT

MODEL = """
import torch
from torch import nn
from hpc_accel.workloads.workload import Workload


def build():
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 10, generator=generator)
    return Workload(
        model=model,
        loss=nn.functional.mse_loss,
        dataset=torch.utils.data.TensorDataset(x, x[:, :3].sin()),
    )
"""


def run(layout: Layout, recipe: Recipe | None = None, **optimizer) -> Run:
    return Run(
        study="mine",
        site="local",
        seed=3,
        workload=WorkloadSpec(
            name="small",
            entry="small_model:build",
            global_batch_size=layout.dp * layout.micro_batch_size * layout.accumulation_steps,
            optimizer=Optimizer(**{"name": "adamw", "learning_rate": 0.01, **optimizer}),
        ),
        layout=layout,
        recipe=recipe or Recipe(),
        resources=Resources(ranks_per_node=layout.num_ranks),
        measure=Measure(),
        device="cpu",
    )


SERIAL = Layout(micro_batch_size=8, accumulation_steps=2)


def losses(directory: Path, **env: str) -> list[float]:
    (directory / "small_model.py").write_text(MODEL)
    here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # as after `source .venv/bin/activate`
    environ = {**os.environ, **ENVIRONMENT, "STEPS": "3", "PATH": here, **env}
    environ["PYTHONPATH"] = f"{directory}:{ROOT}"
    environ.setdefault("MASTER_PORT", str(29600 + os.getpid() % 3000))
    done = subprocess.run(
        ["bash", str(directory / "launch.sh")], env=environ, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [float(each) for each in re.findall(r"^step \d+ loss (\S+)", done.stdout, re.MULTILINE)]


@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> list[float]:
    directory = tmp_path_factory.mktemp("serial")
    write_export(run(SERIAL), "torchrun", directory)
    found = losses(directory)
    assert len(found) == 3 and found[2] < found[0]
    return found


CASES = {
    "torchrun": (Layout(dp=2, micro_batch_size=4, accumulation_steps=2), Recipe(fused_optimizer=True, bucket_mb=1)),
    "torchrun zero1": (
        Layout(dp=2, micro_batch_size=8, accumulation_steps=1, shard="optimizer"),
        Recipe(static_graph=True),
    ),
    "fsdp": (Layout(dp=2, micro_batch_size=4, accumulation_steps=2, shard="full"), Recipe()),
    "fsdp of nothing": (Layout(dp=2, micro_batch_size=4, accumulation_steps=2), Recipe()),
    "fsdp groups": (Layout(dp=4, micro_batch_size=2, accumulation_steps=2, shard="full", shard_ranks=2), Recipe()),
}


@pytest.mark.parametrize("case", CASES)
def test_three_steps_with_torch(case, serial, tmp_path):
    rows = write_export(run(*CASES[case]), case.split()[0], tmp_path)
    assert {row.key for row in rows if row.becomes is None} <= {"resources.memory_mb"}
    assert losses(tmp_path) == pytest.approx(serial, rel=1e-5)


def test_clipping_and_a_course_are_kept(tmp_path):
    found = {}
    for name, layout in {"serial": SERIAL, "two": Layout(dp=2, micro_batch_size=8, accumulation_steps=1)}.items():
        more = {"clip_grad_norm": 0.1, "schedule": {"name": "cosine", "total_steps": 4, "warmup_steps": 2}}
        directory = tmp_path / name
        rows = write_export(run(layout, **more), "torchrun", directory)
        assert {"optimizer.clip_grad_norm", "optimizer.schedule"} <= {row.key for row in rows if row.becomes}
        found[name] = losses(directory)
    assert found["two"] == pytest.approx(found["serial"], rel=1e-5)


@pytest.mark.parametrize(("end", "moves"), [(20, True), (12, False)])
def test_the_course_ends_with_the_steps_that_are_trained(end, moves, tmp_path):
    """One that the study did not end ends, in run.json, with the measured run: at rate 0 nothing more is learnt."""
    whole = Layout(micro_batch_size=64, accumulation_steps=1)  # all samples, so only learning changes the loss
    one = run(whole, schedule={"name": "cosine", "total_steps": end}).model_dump(exclude={"run_id"})
    write_export(Run.model_validate({**one, "measure": {"warmup_steps": 5, "steps": 15}}), "torchrun", tmp_path)
    found = losses(tmp_path, STEPS="40")
    assert found[15] < found[0] and (found[35] < 0.99 * found[25]) is moves


@pytest.fixture(scope="module")
def accelerate(tmp_path_factory) -> Path:
    """Where `accelerate` is: in an environment of its own that sees this one, without what it would bring along."""
    directory = tmp_path_factory.mktemp("accelerate")
    venv.create(directory, with_pip=True, symlinks=True)
    site = next((directory / "lib").glob("python*/site-packages"))
    seen = [path for path in sys.path if path.endswith("site-packages")]
    (site / "seen.pth").write_text("\n".join(seen) + "\n")
    install = [directory / "bin/python", "-m", "pip", "install", "-q", "--no-deps", "accelerate==1.15.0"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode:
        pytest.skip(f"accelerate cannot be installed here: {done.stderr.strip()[-200:]}")
    return directory / "bin"


def test_three_steps_with_accelerate(accelerate, serial, tmp_path):
    rows = write_export(run(Layout(dp=2, micro_batch_size=4, accumulation_steps=2)), "accelerate", tmp_path)
    lost = {row.key for row in rows if row.becomes is None}
    assert lost <= {"resources.memory_mb", "backend"}, lost
    path = f"{accelerate}:{os.environ['PATH']}"
    assert losses(tmp_path, PATH=path) == pytest.approx(serial, rel=1e-5)


def test_nothing_that_is_set_is_left_out(tmp_path):
    layout = Layout(
        dp=2,
        pp=2,
        tp=2,
        shard="full",
        schedule="interleaved_1f1b",
        stages_per_rank=2,
        micro_batch_size=1,
        accumulation_steps=4,
        sequence_parallel=True,
        order="dp.pp.tp",
    )
    recipe = Recipe(
        precision="bf16", compile=True, recompute="full", average_every=2, cpu_bind="core", power_limit_w=300
    )
    full = run(layout, recipe)
    keys = [key for key, _ in set_fields(full)]
    assert {"layout.tp", "recipe.recompute", "recipe.power_limit_w", "optimizer.learning_rate", "layout.order"} <= {
        *keys
    }
    for framework in FRAMEWORKS:
        directory = tmp_path / framework
        rows = write_export(full, framework, directory)
        assert [row.key for row in rows] == keys
        assert all(row.becomes or row.why for row in rows)
        page = (directory / "mapping.md").read_text()
        assert all(f"| `{key}` |" in page for key in keys)
        lost = {row.key for row in rows if row.becomes is None}
        assert ("layout.tp" in lost) == (framework != "torchtitan")
        assert {"recipe.average_every", "recipe.power_limit_w"} <= lost
        assert subprocess.run(["bash", "-n", str(directory / "launch.sh")], check=False).returncode == 0
        if framework != "torchtitan":
            compile((directory / "train.py").read_text(), "train.py", "exec")
            assert nodes_of(full, framework) == (1, 2), "replicas alone"
    titan = (tmp_path / "torchtitan/launch.sh").read_text()
    for flag in (
        "pipeline_parallel_degree=2",
        "tensor_parallel_degree=2",
        "pipeline_parallel_schedule=Interleaved1F1B",
    ):
        assert f"--parallelism.{flag}" in titan
    assert "--nproc-per-node" in titan and nodes_of(full, "torchtitan") == (1, 8)


DEEPSPEED = """
import torch
import torch.distributed

def init_distributed():
    torch.distributed.init_process_group("gloo")

class Wrapper:  # as ZeRO's: no torch optimizer
    def __init__(self, own):
        self.own = own

class Engine(torch.nn.Module):
    def __init__(self, model, own):
        super().__init__()
        self.module, self.own, self.count = model.bfloat16(), own, 0

    def forward(self, *args):
        return self.module(*args)

    def backward(self, loss):
        loss.backward()

    def step(self):
        self.count += 1
        if self.count % 2 == 0:
            print("rate", self.own.param_groups[0]["lr"], flush=True)
            self.own.step()
            self.own.zero_grad()

def initialize(model, optimizer, config):
    return Engine(model, optimizer), Wrapper(optimizer), None, None
"""


def test_deepspeed_in_16_bits_with_a_course(serial, tmp_path):
    """Its weights are in bf16, its wrapper is no torch optimizer: inputs are cast, and the course sets the client's."""
    schedule = {"name": "cosine", "total_steps": 4, "warmup_steps": 2}
    rows = write_export(run(SERIAL, Recipe(precision="bf16"), schedule=schedule), "deepspeed", tmp_path)
    assert {"optimizer.schedule", "recipe.precision", "layout.shard"} <= {row.key for row in rows if row.becomes}
    (tmp_path / "deepspeed.py").write_text(DEEPSPEED)
    (tmp_path / "small_model.py").write_text(MODEL)
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29600 + os.getpid() % 3000)}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "train.py")],
        env={**os.environ, **ENVIRONMENT, **alone, "STEPS": "3", "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [float(each) for each in re.findall(r"^step \d+ loss (\S+)", done.stdout, re.MULTILINE)]
    assert len(found) == 3 and found[0] == pytest.approx(serial[0], rel=0.02)
    rates = [float(each) for each in re.findall(r"^rate (\S+)", done.stdout, re.MULTILINE)]
    assert rates[:2] == pytest.approx([0.005, 0.01])


def test_torchtitan_beside_pipeline_stages():
    """There it has no DDP, and 16 bits by FSDP alone: what it does instead is said."""
    staged = {"pp": 2, "schedule": "1f1b", "micro_batch_size": 2, "accumulation_steps": 2}
    for dp, lost in ((2, {"layout.shard"}), (1, {"recipe.precision"})):
        rows = {row.key: row for row in rows_of(run(Layout(dp=dp, **staged), Recipe(precision="bf16")), "torchtitan")}
        told = {key for key in ("layout.dp", "layout.shard", "recipe.precision") if rows[key].becomes is None}
        assert told == lost
        assert f"shard_degree={dp} --parallelism.data_parallel_replicate_degree=1" in rows["layout.dp"].becomes
    plain = rows_of(run(Layout(dp=2, micro_batch_size=2, accumulation_steps=1), Recipe(precision="bf16")), "torchtitan")
    assert {"layout.shard", "recipe.precision"} <= {row.key for row in plain if row.becomes}


def test_deepspeed_and_accelerate_say_the_batch():
    layout = Layout(dp=4, micro_batch_size=2, accumulation_steps=3, shard="full")
    said = deepspeed_config(run(layout, Recipe(precision="bf16"), clip_grad_norm=1.0))
    assert said["train_batch_size"] == 24 == 4 * said["train_micro_batch_size_per_gpu"] * 3
    assert said["zero_optimization"]["stage"] == 3 and said["bf16"]["enabled"] and said["gradient_clipping"] == 1.0
    text = accelerate_config(run(layout))
    assert "num_processes: 4" in text and "use_cpu: true" in text
    lost = [row.key for row in rows_of(run(layout), "accelerate") if row.becomes is None]
    assert "layout.shard" in lost, "accelerate's FSDP needs GPUs"


def test_accelerate_tells_the_machines_that_it_is_given():
    """Without the stages, the replicas fit on one node of the two that were measured on."""
    staged = Layout(dp=2, pp=2, schedule="1f1b", micro_batch_size=2, accumulation_steps=2)
    content = run(staged).model_dump(exclude={"run_id"})
    one = Run.model_validate({**content, "resources": {"num_nodes": 2, "ranks_per_node": 2}})
    row = next(each for each in rows_of(one, "accelerate") if each.key == "resources.num_nodes")
    assert nodes_of(one, "accelerate") == (1, 2)
    assert "num_machines: 1\n" in accelerate_config(one) and "num_machines: 1," in (row.becomes or "")


def test_a_stream_is_refused(monkeypatch):
    """train.py draws samples by number, which a stream has not."""
    monkeypatch.syspath_prepend(str(ROOT / "tests/train"))
    plain = run(SERIAL)
    workload = plain.workload.model_copy(update={"entry": "stream_models:build", "args": {"kind": "endless"}})
    streamed = Run.model_validate({**plain.model_dump(exclude={"run_id"}), "workload": workload.model_dump()})
    refuse_stream(streamed, "torchtitan")
    with pytest.raises(ConfigError, match="stream"):
        refuse_stream(streamed, "fsdp")


def test_the_command(energy_study):
    words = [COMMAND, "export", str(energy_study), "--workload", "mlp", "--to"]
    done = subprocess.run([*words, "fsdp"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (energy_study / "export/fsdp/launch.sh").is_file() and "settings are kept" in done.stdout
    told = subprocess.run([*words, "torchrun", "--json"], capture_output=True, text=True, timeout=120, check=True)
    assert {row["key"] for row in json.loads(told.stdout)["rows"]} >= {"layout.dp", "workload.entry"}
    wrong = subprocess.run([*words, "horovod"], capture_output=True, text=True, timeout=120, check=False)
    assert wrong.returncode == 64 and "torchtitan" in wrong.stderr
