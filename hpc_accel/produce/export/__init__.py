"""The measured winner as another framework's configuration and launch script.

mapping, rules      every field of a run that is set, what it becomes there, and what it cannot become
files               the configuration, the training script and the launch script of each framework
templates           the training script, and the launch script
cli                 `hpc-accel export`
"""
