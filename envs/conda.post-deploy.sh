#!/bin/bash
# Run by Snakemake in the new conda environment, from the checkout's root.
set -euo pipefail
[[ -f envs/conda.yaml && -f pyproject.toml ]] || { echo "$PWD is not hpc_accel's checkout: start snakemake there" >&2; exit 78; }
pip install --no-compile -r "envs/requirements-${ACCEL:-cpu}.txt"
pip install --no-deps .
