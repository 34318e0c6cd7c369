"""MPI as a torch.distributed backend: importing this registers `mpi4py`; MPI starts when it is first used.

    import hpc_accel.mpi
    torch.distributed.init_process_group("mpi4py")     # under mpirun or srun; no MASTER_ADDR, no torchrun

`init()` does the same and also carries `gloo` and `nccl`, so that one program can compare them.

Read it in this order:
  launch, rendezvous, threads, facts          who the ranks are, how they meet, what this MPI can do
  group, c10d_methods, arguments              what torch calls, and which arguments it may pass
  group_executor, collective_queue, work      the one way of every collective, its order, its handle with a future
  collectives, reductions, buffers, sparse    what c10d means, in MPI's terms
  all_reduce, elementwise                     the most frequent collective, by the quickest of three ways:
  shared_all_reduce, node_memory              through the memory of a node,
  node_exchange, exchange, between_nodes      between nodes in pieces, or the library's, as measured
  staging, gpu_aware, device_times            strided and device tensors
  p2p, communicators                          messages; the communicator of a new group
  timeline, watchdog, debug                   what took how long, what hangs, which ranks differ

The way of a gradient bucket of DistributedDataParallel:

  DDP's reducer, in C++                   a bucket is full; backward goes on
    c10d_methods.allreduce                  checks the arguments, makes a Collective
      GroupExecutor.start                     stages a device's tensor, makes a CollectiveWork, hands it to the caller
        CollectiveQueue.enqueue                 keeps the order of the calls
  ----------------------------------------- from here in the queue's thread, or in a waiting one that comes first
        CollectiveQueue                         takes the first
          CollectiveWork.communicate_watched      the watchdog knows of it
            AllReducer.all_reduce                   takes the quickest of three:
              SharedAllReduce.reduce_in_place         sums in the node's memory, between MPI_Barriers
              NodeExchange.reduce_in_place            between nodes, in pieces
              collectives.all_reduce                  MPI_Allreduce
        CollectiveQueue                         is free for the next
          CollectiveWork.publish                  the future is done, for which DDP waits at the end of backward
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.distributed import Backend, ProcessGroup

from hpc_accel.mpi.launch import World, world
from hpc_accel.mpi.rendezvous import abort, init, register_rendezvous, shutdown

if TYPE_CHECKING:
    from torch._C._distributed_c10d import _DistributedBackendOptions

__all__ = ["World", "abort", "init", "shutdown", "world"]

BACKEND = "mpi4py"


def _create(options: _DistributedBackendOptions, backend_options: Any) -> ProcessGroup:
    """What torch calls for every group: only its members get here."""
    from hpc_accel.mpi.group import create_group

    return create_group(options, backend_options)


def _register() -> None:
    if BACKEND not in Backend.backend_list:
        Backend.register_backend(BACKEND, _create, extended_api=True, devices=["cpu", "cuda", "xpu"])
        register_rendezvous()


_register()
