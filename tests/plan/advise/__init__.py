"""`hpc-accel advise`."""
