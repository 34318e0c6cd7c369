"""Torch's own parallel layers on the backend, each compared with the serial computation. Run under mpirun."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from tests.mpi.cases import case, main


def mlp(width: int = 8, depth: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*layers)


def batch(size: int = 16, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, width, generator=generator), torch.randn(size, width, generator=generator)


def serial() -> tuple[float, nn.Sequential]:
    """Loss and gradients of the whole batch in one process."""
    model, (x, y) = mlp(), batch()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    return loss.item(), model


def assert_gradients(model: nn.Module, names: list[str] | None = None) -> None:
    expected = dict(serial()[1].named_parameters())
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert grad is not None, name
        if hasattr(grad, "full_tensor"):
            grad = grad.full_tensor()
        key = name.removeprefix("module.")
        torch.testing.assert_close(grad, expected[key].grad, rtol=1e-5, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")


def my_rows(rank: int, size: int) -> slice:
    share = 16 // size
    return slice(rank * share, (rank + 1) * share)


@case
def ddp_equals_serial() -> None:
    x, y = batch()
    model = nn.parallel.DistributedDataParallel(mlp(), bucket_cap_mb=0.0005)
    rows = my_rows(dist.get_rank(), dist.get_world_size())
    nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
    assert_gradients(model)


@case
def ddp_no_sync_accumulates() -> None:
    x, y = batch()
    model = nn.parallel.DistributedDataParallel(mlp())
    rank, size = dist.get_rank(), dist.get_world_size()
    mine_x, mine_y = x[my_rows(rank, size)].chunk(2), y[my_rows(rank, size)].chunk(2)
    with model.no_sync():
        (nn.functional.mse_loss(model(mine_x[0]), mine_y[0]) / 2).backward()
    (nn.functional.mse_loss(model(mine_x[1]), mine_y[1]) / 2).backward()
    assert_gradients(model)


def pipeline(
    schedule_name: str, group: dist.ProcessGroup | None, rows: slice, wrap_ddp: dist.ProcessGroup | None
) -> None:
    """Two-rank pipeline of the MLP over `group`, on `rows` of the batch; gradients equal the serial ones."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    stage_index, num_stages = dist.get_rank(group), dist.get_world_size(group)
    whole = mlp()
    per_stage = len(whole) // num_stages
    part: nn.Module = whole[stage_index * per_stage : (stage_index + 1) * per_stage]
    if wrap_ddp is not None:
        part = nn.parallel.DistributedDataParallel(part, process_group=wrap_ddp)
    stage = PipelineStage(part, stage_index, num_stages, torch.device("cpu"), group=group)
    schedule = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[schedule_name](
        stage, n_microbatches=4, loss_fn=nn.functional.mse_loss
    )
    x, y = batch()
    losses: list[torch.Tensor] = []
    first, last = stage_index == 0, stage_index == num_stages - 1
    for _ in range(2):
        part.zero_grad()
        losses.clear()
        schedule.step(*((x[rows],) if first else ()), **({"target": y[rows], "losses": losses} if last else {}))
    expected = dict(serial()[1].named_parameters())
    for name, parameter in part.named_parameters():
        wanted = expected[name.removeprefix("module.")].grad
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-6)


@case
def pipeline_gpipe() -> None:
    pipeline("gpipe", None, slice(None), None)


@case
def pipeline_1f1b() -> None:
    pipeline("1f1b", None, slice(None), None)


@case
def pipeline_of_ddp_stages() -> None:
    if dist.get_world_size() != 4:
        return
    mesh = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
    pipeline("1f1b", mesh.get_group("pp"), my_rows(mesh.get_local_rank("dp"), 2), mesh.get_group("dp"))


@case
def tensor_parallel_equals_serial() -> None:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "4": ColwiseParallel(), "6": RowwiseParallel()}
    model = parallelize_module(mlp(), mesh, plan)
    x, y = batch()
    nn.functional.mse_loss(model(x), y).backward()
    assert_gradients(model)


@case
def fsdp2_equals_serial() -> None:
    from torch.distributed.fsdp import fully_shard

    x, y = batch()
    model = mlp()
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    rows = my_rows(dist.get_rank(), dist.get_world_size())
    nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
    assert_gradients(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


@case
def three_dimensional_mesh() -> None:
    size = dist.get_world_size()
    mesh = dist.init_device_mesh("cpu", (2, size // 2, 1), mesh_dim_names=("pp", "dp", "tp"))
    for name, extent in (("pp", 2), ("dp", size // 2), ("tp", 1)):
        group = mesh.get_group(name)
        assert dist.get_world_size(group) == extent
        total = torch.ones(3)
        dist.all_reduce(total, group=group)
        assert total.tolist() == [float(extent)] * 3


if __name__ == "__main__":
    main()
