"""Torch's further parallel features, each compared with serial training or with gloo. Run under mpirun."""

from __future__ import annotations

import tempfile

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

from hpc_accel.mpi.launch import mpi
from tests.mpi.cases import case, main
from tests.mpi.parallel_cases import assert_gradients, batch, mlp, my_rows, serial


def bf16_sum(group, bucket):  # no annotations: DDP checks them, and here they would be strings
    """What bf16_compress_hook does; DDP refuses that one by name without CUDA."""
    return default_hooks._compress_hook(torch.bfloat16, group, bucket)


def ddp_gradients(group: dist.ProcessGroup | None, hook: str, steps: int = 3) -> list[torch.Tensor]:
    """Gradients of DDP with a communication hook, after some steps (PowerSGD begins after the first ones)."""
    model = nn.parallel.DistributedDataParallel(mlp(), process_group=group)
    if hook == "power":
        state = powerSGD_hook.PowerSGDState(group, matrix_approximation_rank=2, start_powerSGD_iter=2)
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif hook:
        model.register_comm_hook(group, bf16_sum if hook == "bf16_sum" else getattr(default_hooks, hook))
    x, y = batch()
    rows = my_rows(dist.get_rank(), dist.get_world_size())
    for _ in range(steps):
        model.zero_grad()
        nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@case
def communication_hooks_equal_gloo() -> None:
    gloo = dist.new_group(list(range(dist.get_world_size())), backend="gloo")
    for hook in ("allreduce_hook", "fp16_compress_hook", "bf16_sum", "power"):
        ours, theirs = ddp_gradients(None, hook), ddp_gradients(gloo, hook)
        for mine, wanted in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-2 if "16" in hook else 1e-5, atol=1e-5, msg=hook)


@case
def static_graph_and_unused_parameters() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    for options in ({"find_unused_parameters": True}, {"static_graph": True}):
        model = nn.parallel.DistributedDataParallel(Half(), **options)
        for _ in range(3):
            model.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
        torch.testing.assert_close(model.module.used.weight.grad, torch.full((4, 4), 2.0))


@case
def uneven_inputs_join() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    model = nn.parallel.DistributedDataParallel(nn.Linear(2, 1, bias=False))
    with model.join():
        for _ in range(2 + rank):
            model.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
    if rank == size - 1:
        # Alone in the last step: the sum of one rank's gradient, divided by all.
        torch.testing.assert_close(model.module.weight.grad, torch.full((1, 2), 1 / size))


@case
def zero_redundancy_optimizer_equals_serial() -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    x, y = batch()
    rows = my_rows(dist.get_rank(), dist.get_world_size())
    model, whole = nn.parallel.DistributedDataParallel(mlp()), mlp()
    sharded = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, lr=0.01)
    plain = torch.optim.Adam(whole.parameters(), lr=0.01)
    for _ in range(3):
        sharded.zero_grad()
        plain.zero_grad()
        nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
        nn.functional.mse_loss(whole(x), y).backward()
        sharded.step()
        plain.step()
    for mine, wanted in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


@case
def distributed_checkpoint_of_sharded_weights() -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.fsdp import fully_shard

    place = mpi().COMM_WORLD.bcast(tempfile.mkdtemp(prefix="dcp-") if dist.get_rank() == 0 else None)
    model = mlp()
    fully_shard(model)
    dcp.save({"model": model.state_dict()}, checkpoint_id=place)
    other = mlp()
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    fully_shard(other)
    state = {"model": other.state_dict()}
    dcp.load(state, checkpoint_id=place)
    other.load_state_dict(state["model"])
    for mine, wanted in zip(other.parameters(), serial()[1].parameters(), strict=True):
        torch.testing.assert_close(mine.full_tensor(), wanted)


def run_schedule(name: str, stages_of_rank: list[int], num_stages: int) -> None:
    """A schedule of several stages per rank: gradients equal the serial ones."""
    from torch.distributed.pipelining import PipelineStage, schedules

    whole = mlp(depth=num_stages)
    parts = [nn.Sequential(*whole[2 * index : 2 * index + 2]) for index in stages_of_rank]
    stages = [
        PipelineStage(part, index, num_stages, torch.device("cpu"))
        for part, index in zip(parts, stages_of_rank, strict=True)
    ]
    kind = getattr(schedules, name)
    schedule = kind(stages, n_microbatches=8, loss_fn=nn.functional.mse_loss)
    x, y = batch()
    losses: list[torch.Tensor] = []
    first, last = 0 in stages_of_rank, num_stages - 1 in stages_of_rank
    schedule.step(*((x,) if first else ()), **({"target": y, "losses": losses} if last else {}))
    wanted = mlp(depth=num_stages)
    nn.functional.mse_loss(wanted(x), y).backward()
    for part, index in zip(parts, stages_of_rank, strict=True):
        linear = wanted[2 * index]
        torch.testing.assert_close(part[0].weight.grad, linear.weight.grad, rtol=1e-4, atol=1e-6, msg=name)
        torch.testing.assert_close(part[0].bias.grad, linear.bias.grad, rtol=1e-4, atol=1e-6, msg=name)


@case
def looped_schedules() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    for name in ("ScheduleInterleaved1F1B", "ScheduleLoopedBFS", "ScheduleInterleavedZeroBubble"):
        run_schedule(name, [rank, rank + size], 2 * size)


@case
def v_shaped_schedules() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    for name in ("ScheduleZBVZeroBubble", "ScheduleDualPipeV"):
        run_schedule(name, [rank, 2 * size - 1 - rank], 2 * size)


@case
def hybrid_sharding_over_two_dimensions() -> None:
    from torch.distributed.fsdp import fully_shard

    size = dist.get_world_size()
    mesh = dist.init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("replicate", "shard"))
    x, y = batch()
    model = mlp()
    fully_shard(model, mesh=mesh)
    rows = my_rows(dist.get_rank(), size)
    nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
    assert_gradients(model)


if __name__ == "__main__":
    main()
