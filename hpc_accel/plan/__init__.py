"""What each layout would cost on a machine, and which layouts are worth measuring. Read in this order:

software, compute, kernels, network, links   bytes and operations of a program; times of layers and messages
transformer, shipped                    facts from a model's sizes; published hardware
calibration, measured_passes            what a study's own models took, and what that says of other layouts
layer_cost, stage_cost, pipeline_cost   a layer's passes; layers added up; all stages of a layout
schedules, pipeline_simulation          the order of passes of each schedule, and how long it takes
data_parallel, memory, memory_fit       what replicas add; the peak of the fullest rank; whether it has room
cost, predictable, prediction           a step; whether its time can be told; all figures of one run
layouts, search, planner, heterogeneous every layout, the best, the plan of a study; nodes that differ
spend                                   which candidate to measure next, and when no other could win
advise                                  hardware, nodes and layout for a training of given length
explain                                 what a prediction is made of, as trees and a timeline
evaluate                                how good predictions are on published measurements
"""
