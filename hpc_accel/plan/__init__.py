"""What each layout would cost on a machine, and which layouts are worth measuring. Read in this order:

software, compute, network      bytes and operations of a program; time of a layer; time of messages
stage_cost, pipeline_cost       layers added up into stages; all stages of a layout
schedules, pipeline_simulation  the order of passes of each schedule, and how long it takes
data_parallel, links, memory    what replicas add to a step; the peak of the fullest rank
cost                            one run: time by part, memory, energy, price
layouts, search, planner        every layout, the best of them, the plan of a study
heterogeneous, accuracy         nodes that differ; how good predictions were
"""

from hpc_accel.probe.hardware import Hardware, load_hardware

__all__ = ["Hardware", "load_hardware"]
