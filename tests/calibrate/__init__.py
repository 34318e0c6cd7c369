"""Tests of hpc_accel.calibrate."""
