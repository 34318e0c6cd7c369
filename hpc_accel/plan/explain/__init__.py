"""Why one candidate of a study is predicted as it is: its time and memory as a tree, its step as a timeline.

find        the run and the model that predicts it, as the plan had them
tree        what adds up to the step, and to the fullest rank's memory
timeline    each pass of each rank, simulated, in the Chrome trace format, beside the measured step
cli         `hpc-accel plan explain`
"""
