"""`python -m hpc_accel.record` writes docs/summary.schema.json."""

from hpc_accel.record.schema import publish

publish()
