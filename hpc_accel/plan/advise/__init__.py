"""Which hardware, how many nodes and which layout for a training of given length; and what a budget buys.

catalogue, data_sheet        published figures of devices, each with its source; a machine made of them for the planner
models, question             the model that is asked about; length, limits and what counts
options, uncertainty         what each hardware takes on each number of nodes; how far to trust it
choose, changes              the best, its runner-up, and what would change the answer
budget, ask                  backwards: node-hours into parameters and tokens; what the command line asks
queue                        when Slurm would start it, and what is left of the account
show, cli                    the answer for people; `hpc-accel advise`
"""
