"""Inference with a trained model: latency under open-loop load, throughput under a limit, and what it costs.

Read it in this order:
  main, setup, loop, record      the job: what it needs first, what it measures in which order, what it writes
  weights, model, replica        the weights; the model pruned, cast, cut and compiled; one replica of it
  quantize, pruning, warmup      recipes of inference; libraries load before anything is timed
  arrivals, queue, open_loop     requests at their times, one replica's queue, all replicas together
  latency, rate_search, generate percentiles; the highest rate within a limit; token generation
  outputs, compare_with_serial   whether the answers are those of the serial fp32 model
"""
