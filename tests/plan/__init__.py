"""Tests of hpc_accel.plan."""
