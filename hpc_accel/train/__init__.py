"""The training job that a run's script launches: set-up, step loop, parity, records."""
