"""`hpc-accel plan explain`."""
