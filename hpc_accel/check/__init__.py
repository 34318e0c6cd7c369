"""`hpc-accel check STUDY`: what is wrong with a study and its models, found in seconds, before anything is queued.

Read it in this order:
  check                the answer: study and site, then each workload, and what is left to measure
  apart                the user's code in a process of its own: a hang, a crash or an early exit is told, never shared
  child                what that process does, one workload after the other
  samples, trial, layouts    a look at the data; a micro-batch forward and backward; what a study's lists come to
  show, cli            the answer in words; the commands
"""
