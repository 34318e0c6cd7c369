"""What was measured, how, over what scope and how sure. Importing this package imports nothing; read in this order.

events, clock      a named piece of time; one clock for all ranks
statistics         medians with bootstrap intervals
phases, stragglers, disturbance, flops    where a step's time went, whose it was, what share of the peak it reached
peak_memory          peak memory of host and device
energy/            joules: from sensors to one figure (its `__init__` is a map)
trace              all ranks in one file for Perfetto
provenance, gpu_facts, host    versions, hardware and machine that a figure depends on
"""
