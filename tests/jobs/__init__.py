"""Tests of hpc_accel.jobs."""
