#!/usr/bin/env bash
# A Python for `make gpu-check` in the folder $1, without a network: the python3 on PATH, which has torch for GPUs, and
# what it lacks from .whl (make gpu-check-wheels). Nothing is changed outside the folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
packages=$(python3 -c 'import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))')
python3 -m venv --without-pip "$1"
own=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
python3 -m pip --python "$1/bin/python" install -q --no-index --no-deps --no-compile .whl/*.whl
# Last, or pip would find there what it is asked to install.
echo "$packages" > "$own/torch.pth"
"$1/bin/python" -c 'import mpi4py.MPI, polars, pydantic, torch; print(torch.__version__, torch.cuda.is_available())'
