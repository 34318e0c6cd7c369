"""Energy from the sensors there are, each counted once; unknown is None with a reason, never 0.

    sensors/ -> reader -> counter -> interval -> NodeRecord -> aggregate -> combine -> record

Read `meter.py` first: it is what callers use. Then in the order of the data: `sensors/` read hardware; `reader.py` is
one thread per source; `counter.py` turns readings into joules between two marks; `nodes.py` gives each sensor one owner
among the ranks; `scopes.py` says what contains what; `aggregate.py` makes one `EnergyFigure` (`figure.py`) of all
nodes, `idle.py` puts the idle power beside it; `combine_windows.py` adds windows that follow each other. Beside them:
`power_samples.py` keeps power over time, `attribution.py` and `phase_energy.py` say which phase used the joules,
`gpus_in_use.py` which GPUs are the run's, `derived.py` divides, `wall_clock.py` is the time that tests replace.

Importing this package imports nothing.
"""
