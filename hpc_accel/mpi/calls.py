"""c10d's collective methods: arguments are checked here, before anything is queued, so that mistakes raise at the call.

Every method describes its work as `call(reads, writes)` on contiguous host tensors and submits it. The names are
those of torch 2.13; the older ones of 2.11 are at the end, because C++ falls back to old names and Python does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hpc_accel.mpi import collectives as c
from hpc_accel.mpi import sparse
from hpc_accel.mpi.arguments import even, gather_list, one, only, op_of, parts, root_of, rows, same, splits
from hpc_accel.mpi.buffers import flat
from hpc_accel.mpi.endpoint import Endpoint
from hpc_accel.mpi.reductions import Reduction, resolve
from hpc_accel.mpi.work import DoneWork, MPIWork


class CollectiveCalls:
    """The collective half of the process group."""

    endpoint: Endpoint

    def submit(
        self,
        op: str,
        call: Any,
        reads: Sequence[Tensor],
        writes: Sequence[Tensor],
        opts: Any,
        *,
        detail: str = "",
        result: list[Tensor] | None = None,
        elementwise: bool = False,
        device_memory: bool = False,
    ) -> MPIWork:
        raise NotImplementedError

    # --- collectives of one tensor

    def allreduce(self, tensors: Any, opts: Any = None) -> MPIWork:
        tensor = one(tensors)
        if tensor.layout is not torch.strided:
            return self._all_reduce_sparse(tensor, opts)
        reduction = resolve(op_of(opts), tensor.dtype)
        if (
            reduction.plain
            and not getattr(opts, "asyncOp", True)
            and self.endpoint.all_reduce_at_once(tensor, reduction)
        ):
            return DoneWork([tensor])
        return self.submit(
            "all_reduce",
            self._all_reduce(reduction),
            [tensor],
            [tensor],
            opts,
            detail=reduction.name,
            elementwise=True,
            device_memory=reduction.plain,
        )

    def _all_reduce_sparse(self, tensor: Tensor, opts: Any) -> MPIWork:
        sparse.check(tensor, op_of(opts))
        comm = self.endpoint.comm

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            sparse.all_reduce(comm, tensor)

        return self.submit("all_reduce of sparse", call, [], [], opts, result=[tensor])

    def _all_reduce(self, reduction: Reduction) -> Any:
        end = self.endpoint

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            for tensor in writes:
                end.all_reduce(tensor, reduction)

        return call

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> MPIWork:
        for tensor in tensors:
            same("all_reduce_coalesced", [tensor], tensors[0], 1)
        reduction = resolve(op_of(opts), tensors[0].dtype)
        return self.submit("all_reduce_coalesced", self._all_reduce(reduction), tensors, tensors, opts)

    def broadcast(self, tensors: Any, opts: Any = None) -> MPIWork:
        tensor, root, comm = one(tensors), root_of(opts), self.endpoint.comm
        # The root reads and the others write, so that each device copies one way only.
        reads, writes = ([tensor], []) if root == self.endpoint.rank else ([], [tensor])

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            c.broadcast(comm, (reads or writes)[0], root)

        return self.submit(
            "broadcast",
            call,
            reads,
            writes,
            opts,
            detail=f"root {root}",
            result=[tensor],
            elementwise=True,
            device_memory=True,
        )

    def reduce(self, tensors: Any, opts: Any = None) -> MPIWork:
        tensor, root, comm = one(tensors), root_of(opts), self.endpoint.comm
        reduction = resolve(op_of(opts), tensor.dtype)

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            c.reduce(comm, reads[0], root, reduction)

        writes = [tensor] if root == self.endpoint.rank else []
        return self.submit(
            "reduce", call, [tensor], writes, opts, detail=f"{reduction.name} to {root}", result=[tensor]
        )

    def barrier(self, opts: Any = None) -> MPIWork:
        comm = self.endpoint.comm
        return self.submit("barrier", lambda reads, writes: c.barrier(comm), [], [], opts)

    # --- one tensor from or to every rank

    def all_gather_single(self, output: Tensor, source: Tensor, opts: Any = None) -> MPIWork:
        return self.all_gather_single_coalesced([output], [source], opts)

    def all_gather_single_coalesced(self, outputs: list[Tensor], sources: list[Tensor], opts: Any = None) -> MPIWork:
        comm = self.endpoint.comm
        for output, source in zip(outputs, sources, strict=True):
            parts("all_gather", output, source, self.endpoint.size)

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            for output, source in zip(writes, reads, strict=True):
                c.all_gather(comm, output, source)

        return self.submit("all_gather", call, sources, outputs, opts)

    def allgather(self, output_lists: Any, sources: Any, opts: Any = None) -> MPIWork:
        source, size, comm = one(sources), self.endpoint.size, self.endpoint.comm
        outputs = output_lists if isinstance(output_lists[0], Tensor) else only(output_lists)
        same("all_gather", outputs, source, size)

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            gather_list(comm, writes, reads[0])

        return self.submit("all_gather", call, [source], outputs, opts)

    def allgather_coalesced(self, output_lists: list[list[Tensor]], sources: list[Tensor], opts: Any = None) -> MPIWork:
        size, comm = self.endpoint.size, self.endpoint.comm
        # Torch hands over one list per rank here, one per tensor elsewhere; a rank's list has a tensor per source.
        for outputs in output_lists:
            same("all_gather_coalesced", outputs, sources[0], len(sources))

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            for index, source in enumerate(reads):
                gather_list(comm, writes[index :: len(reads)], source)

        if len(output_lists) != size:
            raise ValueError(f"all_gather_coalesced: {len(output_lists)} lists: rule: one per rank, {size}")
        return self.submit("all_gather", call, sources, [t for outputs in output_lists for t in outputs], opts)

    def gather(self, output_lists: Any, sources: Any, opts: Any = None) -> MPIWork:
        source, root, comm = one(sources), root_of(opts), self.endpoint.comm
        here = root == self.endpoint.rank
        outputs: list[Tensor] = only(output_lists) if here else []
        if here:
            same("gather", outputs, source, self.endpoint.size)

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            c.gather(comm, writes if here else None, reads[0], root)

        return self.submit("gather", call, [source], outputs, opts)

    def scatter(self, outputs: Any, source_lists: Any, opts: Any = None) -> MPIWork:
        output, root, comm = one(outputs), root_of(opts), self.endpoint.comm
        here = root == self.endpoint.rank
        sources: list[Tensor] = only(source_lists) if here else []
        if here:
            same("scatter", sources, output, self.endpoint.size)

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            c.scatter(comm, writes[0], reads if here else None, root)

        return self.submit("scatter", call, sources, [output], opts)

    def reduce_scatter_single(self, output: Tensor, source: Tensor, opts: Any = None) -> MPIWork:
        return self.reduce_scatter_single_coalesced([output], [source], opts)

    def reduce_scatter_single_coalesced(
        self, outputs: list[Tensor], sources: list[Tensor], opts: Any = None
    ) -> MPIWork:
        comm = self.endpoint.comm
        for output, source in zip(outputs, sources, strict=True):
            parts("reduce_scatter", source, output, self.endpoint.size)
        reduction = resolve(op_of(opts), outputs[0].dtype)

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            for output, source in zip(writes, reads, strict=True):
                c.reduce_scatter(comm, output, source, reduction)

        return self.submit("reduce_scatter", call, sources, outputs, opts)

    def reduce_scatter(self, outputs: Any, source_lists: Any, opts: Any = None) -> MPIWork:
        output, comm, rank = one(outputs), self.endpoint.comm, self.endpoint.rank
        sources = source_lists if isinstance(source_lists[0], Tensor) else only(source_lists)
        same("reduce_scatter", sources, output, self.endpoint.size)
        if sources[rank].numel() != output.numel():
            raise ValueError(
                f"reduce_scatter: part {rank} has {sources[rank].numel()} elements, the output {output.numel()}: "
                "rule: they agree; remedy: correct the shapes"
            )
        reduction = resolve(op_of(opts), output.dtype)
        alike = all(source.numel() == output.numel() for source in sources)

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            if alike:
                c.reduce_scatter(comm, writes[0], flat(reads), reduction)
            else:
                c.reduce_scatter_uneven(comm, writes[0], reads, reduction)

        return self.submit("reduce_scatter", call, sources, [output], opts)

    # --- everybody to everybody

    def all_to_all_single(
        self, output: Tensor, source: Tensor, output_splits: list[int], source_splits: list[int], opts: Any = None
    ) -> MPIWork:
        comm, size = self.endpoint.comm, self.endpoint.size
        equal = not output_splits and not source_splits
        same("all_to_all", [output], source, 1)
        if equal:
            even("all_to_all", source, output, size)
        else:
            splits("output", output, output_splits, size)
            splits("input", source, source_splits, size)

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            if equal:
                c.all_to_all(comm, writes[0], reads[0])
            else:
                c.exchange(comm, rows(writes[0], output_splits, size), rows(reads[0], source_splits, size))

        return self.submit("all_to_all", call, [source], [output], opts)

    def alltoall(self, outputs: list[Tensor], sources: list[Tensor], opts: Any = None) -> MPIWork:
        comm = self.endpoint.comm
        same("all_to_all", outputs, sources[0], self.endpoint.size)
        same("all_to_all", sources, sources[0], self.endpoint.size)

        def call(reads: list[Tensor], writes: list[Tensor]) -> None:
            c.exchange(comm, list(writes), list(reads))

        return self.submit("all_to_all", call, sources, outputs, opts)

    # --- the names torch 2.11 knows

    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single
