"""What probe, training and inference share: from started ranks to a timed step, and how ranks end together.

Read it in this order:
  launch, device, threads             who the ranks are and what each computes on
  batches, loss, optimizer, precision, scaler, build, step     the stepper and what it is made of
  clock, cuda_clock, in_flight, copies       when each phase of a step began and ended
  frequency, gpu_clock                the frequency asked for, and whether the GPU kept it
  stop, ending                        warning signals; all ranks end with one exit code
  summary, checks                     what every summary.json says; what a reader must know first
"""
