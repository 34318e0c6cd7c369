"""Side-by-side measurements of the mpi4py backend, for `hpc-accel bench ...`: ways to do the same step take turns.

Read it in this order:
  interleaved        the one way to time: all ways take turns, the slowest rank counts, medians
  steps              what is timed on CPUs: all-reduces, and steps of DDP, FSDP2 and a pipeline
  wire               what the links between nodes allow, and what was really sent
  report             the report of made-up records (`report_study`) in a browser: seconds, memory, sizes
  cli                the commands
  backend, gpu       the two comparisons: what stands beside what, the table they print
  start_ranks        ranks on this host, where no launcher has started any
  result_file        the JSON file: figures, versions, when and under what load
"""
