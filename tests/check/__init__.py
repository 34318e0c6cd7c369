"""Tests of `hpc-accel check`."""
