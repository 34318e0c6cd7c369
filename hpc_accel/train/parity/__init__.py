"""Does a layout compute what the serial run computes? Gradients, losses, samples and weights are compared.

Read it in this order (docs/parity.md tells the same in prose):
  sketch        a tensor in 64 numbers, which can be added up over ranks and tell distances
  mean          what a loss is the mean over, measured
  together      samples computed together beside parts of them
  pieces        how the serial run cuts a batch
  engine        steps of the serial run
  double        a workload in fp64
  facts         what is measured before any of them
  reference     what is kept of them
  store         found by its digest, or computed where there is none
  job           the process that computes them, for all runs of a model
  steps         the same steps taken by the run's own ranks
  optimizer_check    the run's own optimizer beside plain torch's, and the norm that gradients are clipped by
  effect        what PowerSGD and local SGD change, which no serial run has
  room          how much fits on one rank, and letting go of it
  compare       distances and tolerances
  verdict       what a difference means, in words
  judge         one phase of steps judged
  check         all of it, before the timed steps
"""
