"""The training job that a run's script launches.

Read it in this order:
  main, setup, loop, record      the job: what it needs first, its steps, what it writes
  step_log, step_table, rows     what a rank saw of each step; rows of steps.parquet
  finite, replicas               the first NaN ends a run; so do replicas whose weights part
  parity, evaluate               whether the run computes what the serial run does; the metric on held-out data
  checkpoint, another_run        whole checkpoints or none; starting from another run's
  saver, interval, saving, host_copies, checkpoint_directory    when a run saves; how it does so beside its steps
  state, rank_state, attempt_log    what is saved: weights and optimizer, what else a rank knows, what it measured
  checkpoint_files, tensor_file, slices     in which files, how they are written and read
  production        a training to its end: evaluations, weights as plain torch loads them, where the time went
  efficiency, utilisation        joules per sample and token; share of the peak rate
  faults                         faults planted by tests
"""
