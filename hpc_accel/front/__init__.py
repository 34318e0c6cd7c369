"""The front door: `hpc-accel run STUDY` and `hpc-accel watch RESULTS`.

Read it in this order:
  run         the whole way: check, start the workflow, keep the screen, end with the answer
  preflight   what is wrong with the machine or the results, told within a second
  workflow    Snakemake as a process: its command line, its log, Ctrl-C
  state       what a study is doing, read from its files: works beside any workflow, on any host that sees them
  trainings   the same of trainings to their end, with their curves
  show        that as a screen, as plain lines, or as JSON events
  few_runs, search_lines `hpc-accel search`: short runs of a plan's candidates, where they can change the answer
  cli         the two commands
"""
