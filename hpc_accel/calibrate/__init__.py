"""What a study's own models take on this machine, layer by layer, so that predictions rest on them. Read in this order:

wanted     which passes and layouts the candidates of a study use, and which of them are measured
shorten    a deep model with fewer of its equal layers
measure    a few steps of one layout on some of the ranks, through the stepper that training has
power      what a node draws meanwhile
layers     what share of a pass each layer takes
fit        measured steps into the calibration that the planner reads
run        all of it under the probe's mpirun: limits, what is kept, what a failure costs
"""
