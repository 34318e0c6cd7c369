#!/bin/bash
# Run by Snakemake in the new conda environment, from the checkout's root.
set -euo pipefail
pip install --no-compile -r "envs/requirements-${ACCEL:-cpu}.txt"
pip install --no-deps .
