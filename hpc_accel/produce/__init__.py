"""From a study's answer to a trained model: the chosen layout becomes a run that trains to its end.

Read it in this order:
  cli, produce      `hpc-accel produce`: what it checks, writes and starts
  choose            which measured run is trained: the best for an objective, or a named one
  length            epochs, tokens and targets into steps; how often it is evaluated
  forecast          what the whole will take, by what was measured
  start             job after job until the training is done: here, or as a chain in Slurm's queue
  export            the chosen layout for another framework: torchrun, FSDP, accelerate, DeepSpeed, torchtitan
"""
