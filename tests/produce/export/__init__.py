"""`hpc-accel export`."""
