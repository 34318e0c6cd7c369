"""What a machine can do, measured by a short MPI job.

Read it in this order:
  hardware                       the schema of hardware.json, which the planner reads
  probe                          the job: what is measured, in which order
  compute, products              matrix products per precision, memory bandwidth
  network, backend               links between ranks, by MPI and by a backend
  machine, merge                 facts of nodes; kinds of nodes put together
"""
