"""c10d's collective methods: arguments are checked here, before anything is queued, so that mistakes raise at the call.

Every method describes itself as a `Collective`, whose `communicate(reads, writes)` gets contiguous host tensors, and
starts it on the group's executor. The names are those of torch 2.13; the older ones of 2.11 are at the end, because C++
falls back to old names and Python does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hpc_accel.mpi import collectives as c
from hpc_accel.mpi import sparse
from hpc_accel.mpi.arguments import (
    check_alike,
    check_even,
    check_parts,
    check_single,
    check_single_list,
    check_splits,
    reduce_op_of,
    root_of,
    split_rows,
)
from hpc_accel.mpi.buffers import flat
from hpc_accel.mpi.group_executor import Collective, Communicate, GroupExecutor
from hpc_accel.mpi.reductions import Reduction, resolve
from hpc_accel.mpi.work import DoneWork, MPIWork


class CollectiveMethods:
    """The collective half of the process group."""

    executor: GroupExecutor

    # --- collectives of one tensor

    def allreduce(self, tensors: Any, opts: Any = None) -> MPIWork:
        tensor = check_single(tensors)
        if tensor.layout is not torch.strided:
            return self._all_reduce_sparse(tensor, opts)
        reduction = resolve(reduce_op_of(opts), tensor.dtype)
        if (
            reduction.plain
            and not getattr(opts, "asyncOp", True)
            and self.executor.try_all_reduce_here(tensor, reduction)
        ):
            return DoneWork([tensor])
        collective = Collective(
            "all_reduce",
            self._reducing(reduction),
            [tensor],
            [tensor],
            detail=reduction.name,
            elementwise=True,
            device_memory=reduction.plain,
        )
        return self.executor.start(collective, opts)

    def _all_reduce_sparse(self, tensor: Tensor, opts: Any) -> MPIWork:
        sparse.check(tensor, reduce_op_of(opts))
        comm = self.executor.comm

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            sparse.sum_entries(comm, tensor)

        return self.executor.start(Collective("all_reduce of sparse", communicate, [], [], result=[tensor]), opts)

    def _reducing(self, reduction: Reduction) -> Communicate:
        reducer = self.executor.reducer

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            for tensor in writes:
                reducer.all_reduce(tensor, reduction)

        return communicate

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> MPIWork:
        for tensor in tensors:
            check_alike("all_reduce_coalesced", [tensor], tensors[0], 1)
        reduction = resolve(reduce_op_of(opts), tensors[0].dtype)
        return self.executor.start(
            Collective("all_reduce_coalesced", self._reducing(reduction), tensors, tensors), opts
        )

    def broadcast(self, tensors: Any, opts: Any = None) -> MPIWork:
        tensor, root, comm = check_single(tensors), root_of(opts), self.executor.comm
        # The root reads and the others write, so that each device copies one way only.
        reads, writes = ([tensor], []) if root == self.executor.rank else ([], [tensor])

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            c.broadcast(comm, (reads or writes)[0], root)

        collective = Collective(
            "broadcast",
            communicate,
            reads,
            writes,
            detail=f"root {root}",
            result=[tensor],
            elementwise=True,
            device_memory=True,
        )
        return self.executor.start(collective, opts)

    def reduce(self, tensors: Any, opts: Any = None) -> MPIWork:
        tensor, root, comm = check_single(tensors), root_of(opts), self.executor.comm
        reduction = resolve(reduce_op_of(opts), tensor.dtype)

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            c.reduce(comm, reads[0], root, reduction)

        writes = [tensor] if root == self.executor.rank else []
        collective = Collective(
            "reduce", communicate, [tensor], writes, detail=f"{reduction.name} to {root}", result=[tensor]
        )
        return self.executor.start(collective, opts)

    def barrier(self, opts: Any = None) -> MPIWork:
        comm = self.executor.comm
        return self.executor.start(Collective("barrier", lambda reads, writes: c.barrier(comm), [], []), opts)

    # --- one tensor from or to every rank

    def all_gather_single(self, output: Tensor, source: Tensor, opts: Any = None) -> MPIWork:
        return self.all_gather_single_coalesced([output], [source], opts)

    def all_gather_single_coalesced(self, outputs: list[Tensor], sources: list[Tensor], opts: Any = None) -> MPIWork:
        comm = self.executor.comm
        for output, source in zip(outputs, sources, strict=True):
            check_parts("all_gather", output, source, self.executor.size)

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            for output, source in zip(writes, reads, strict=True):
                c.all_gather(comm, output, source)

        return self.executor.start(Collective("all_gather", communicate, sources, outputs), opts)

    def allgather(self, output_lists: Any, sources: Any, opts: Any = None) -> MPIWork:
        source, size, comm = check_single(sources), self.executor.size, self.executor.comm
        outputs = output_lists if isinstance(output_lists[0], Tensor) else check_single_list(output_lists)
        check_alike("all_gather", outputs, source, size)

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            c.all_gather_list(comm, writes, reads[0])

        return self.executor.start(Collective("all_gather", communicate, [source], outputs), opts)

    def allgather_coalesced(self, output_lists: list[list[Tensor]], sources: list[Tensor], opts: Any = None) -> MPIWork:
        size, comm = self.executor.size, self.executor.comm
        # Torch hands over one list per rank here, one per tensor elsewhere; a rank's list has a tensor per source.
        for outputs in output_lists:
            check_alike("all_gather_coalesced", outputs, sources[0], len(sources))

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            for index, source in enumerate(reads):
                c.all_gather_list(comm, writes[index :: len(reads)], source)

        if len(output_lists) != size:
            raise ValueError(f"all_gather_coalesced: {len(output_lists)} lists: rule: one per rank, {size}")
        writes = [output for outputs in output_lists for output in outputs]
        return self.executor.start(Collective("all_gather", communicate, sources, writes), opts)

    def gather(self, output_lists: Any, sources: Any, opts: Any = None) -> MPIWork:
        source, root, comm = check_single(sources), root_of(opts), self.executor.comm
        here = root == self.executor.rank
        outputs: list[Tensor] = check_single_list(output_lists) if here else []
        if here:
            check_alike("gather", outputs, source, self.executor.size)

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            c.gather(comm, writes if here else None, reads[0], root)

        return self.executor.start(Collective("gather", communicate, [source], outputs), opts)

    def scatter(self, outputs: Any, source_lists: Any, opts: Any = None) -> MPIWork:
        output, root, comm = check_single(outputs), root_of(opts), self.executor.comm
        here = root == self.executor.rank
        sources: list[Tensor] = check_single_list(source_lists) if here else []
        if here:
            check_alike("scatter", sources, output, self.executor.size)

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            c.scatter(comm, writes[0], reads if here else None, root)

        return self.executor.start(Collective("scatter", communicate, sources, [output]), opts)

    def reduce_scatter_single(self, output: Tensor, source: Tensor, opts: Any = None) -> MPIWork:
        return self.reduce_scatter_single_coalesced([output], [source], opts)

    def reduce_scatter_single_coalesced(
        self, outputs: list[Tensor], sources: list[Tensor], opts: Any = None
    ) -> MPIWork:
        comm = self.executor.comm
        for output, source in zip(outputs, sources, strict=True):
            check_parts("reduce_scatter", source, output, self.executor.size)
        reduction = resolve(reduce_op_of(opts), outputs[0].dtype)

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            for output, source in zip(writes, reads, strict=True):
                c.reduce_scatter(comm, output, source, reduction)

        return self.executor.start(Collective("reduce_scatter", communicate, sources, outputs), opts)

    def reduce_scatter(self, outputs: Any, source_lists: Any, opts: Any = None) -> MPIWork:
        output, comm, rank = check_single(outputs), self.executor.comm, self.executor.rank
        sources = source_lists if isinstance(source_lists[0], Tensor) else check_single_list(source_lists)
        check_alike("reduce_scatter", sources, output, self.executor.size)
        if sources[rank].numel() != output.numel():
            raise ValueError(
                f"reduce_scatter: part {rank} has {sources[rank].numel()} elements, the output {output.numel()}: "
                "rule: they agree; remedy: correct the shapes"
            )
        reduction = resolve(reduce_op_of(opts), output.dtype)
        alike = all(source.numel() == output.numel() for source in sources)

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            if alike:
                c.reduce_scatter(comm, writes[0], flat(reads), reduction)
            else:
                c.reduce_scatter_uneven(comm, writes[0], reads, reduction)

        return self.executor.start(Collective("reduce_scatter", communicate, sources, [output]), opts)

    # --- everybody to everybody

    def all_to_all_single(
        self, output: Tensor, source: Tensor, output_splits: list[int], source_splits: list[int], opts: Any = None
    ) -> MPIWork:
        comm, size = self.executor.comm, self.executor.size
        equal = not output_splits and not source_splits
        check_alike("all_to_all", [output], source, 1)
        if equal:
            check_even("all_to_all", source, output, size)
        else:
            check_splits("output", output, output_splits, size)
            check_splits("input", source, source_splits, size)

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            if equal:
                c.all_to_all(comm, writes[0], reads[0])
            else:
                c.exchange(comm, split_rows(writes[0], output_splits, size), split_rows(reads[0], source_splits, size))

        return self.executor.start(Collective("all_to_all", communicate, [source], [output]), opts)

    def alltoall(self, outputs: list[Tensor], sources: list[Tensor], opts: Any = None) -> MPIWork:
        comm = self.executor.comm
        check_alike("all_to_all", outputs, sources[0], self.executor.size)
        check_alike("all_to_all", sources, sources[0], self.executor.size)

        def communicate(reads: list[Tensor], writes: list[Tensor]) -> None:
            c.exchange(comm, list(writes), list(reads))

        return self.executor.start(Collective("all_to_all", communicate, sources, outputs), opts)

    # --- the names torch 2.11 knows

    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single
