"""What probe, training and inference share: from started ranks to a timed step, and how ranks end together.

Read it in this order:
  start_ranks, device, threads, heap      who the ranks are and what each computes on
  randomness, still, seeded               who draws which random numbers; how they are held still
  batches, data_worker, weight, loss, optimizer, clip, precision, scaler, make_stepper, step
                                          the stepper and what it is made of
  phase_timer, cuda_timer, in_flight, copies      when each phase of a step began and ended
  set_frequencies, gpu_frequency          the frequency asked for, and whether the GPU kept it
  stop, hang, exit, waiting               warning signals; ranks that hang; all ranks end with one exit code
  summary, timing_warnings, disturbance, stage_sizes   what every summary.json says; what a reader must know first
"""
