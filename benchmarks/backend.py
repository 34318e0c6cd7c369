"""The mpi4py backend beside gloo; `hpc-accel bench backend` does the same and starts the ranks itself.

mpirun -n 2 .venv/bin/python -m mpi4py benchmarks/backend.py [--json FILE] [--only all_reduce,ddp_mlp]
"""

from __future__ import annotations

from hpc_accel.mpi.bench import main

if __name__ == "__main__":
    main()
