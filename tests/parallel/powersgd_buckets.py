"""`mpirun -n 2 python powersgd_buckets.py`: PowerSGD goes on where other buckets hold the parameters."""

import copy

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import hpc_accel.mpi
from hpc_accel.parallel.powersgd import ErrorFeedback, feedback_of

hpc_accel.mpi.init("mpi4py")
STEPS, BROKEN_AFTER = 9, 5


def model():
    torch.manual_seed(0)
    return nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(192, 192), nn.Tanh())))


def wrapped(module):
    # One bucket in the first step; when gradients have come once, DDP makes several.
    found = DistributedDataParallel(module, bucket_cap_mb=0.2)
    ErrorFeedback(found, None)
    return found


def train(ddp, steps):
    for step in steps:
        torch.manual_seed(100 * step + dist.get_rank())
        loss = ddp(torch.randn(16, 192)).square().mean()
        ddp.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in ddp.parameters():
                parameter.sub_(0.5 * parameter.grad)


whole = wrapped(model())
train(whole, range(STEPS))

first = wrapped(model())
train(first, range(BROKEN_AFTER))
feedback = feedback_of(first)
known = [(error.clone(), None if factor is None else factor.clone()) for _, (error, factor) in feedback.by_parameter()]
order = [id(parameter) for parameter, _ in feedback.by_parameter()]
names = {id(parameter): name for name, parameter in first.module.named_parameters()}
by_name = {names[identity]: memory for identity, memory in zip(order, known, strict=True)}
assert len(by_name) == 12
assert any(factor is not None for _, factor in known)
assert any(error.abs().max() > 0 for error, _ in known)

for forgets in (False, True):
    again = wrapped(copy.deepcopy(first.module))
    memory = {id(each): by_name[name] for name, each in again.module.named_parameters()}
    feedback_of(again).restore(BROKEN_AFTER, {} if forgets else memory)
    train(again, range(BROKEN_AFTER, STEPS))
    equal = all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert equal != forgets, "what was remembered matters, and is all that matters"
hpc_accel.mpi.shutdown()
