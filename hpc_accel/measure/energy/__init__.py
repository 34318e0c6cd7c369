"""Energy from the sensors there are, each counted once; unknown is None with a reason, never 0."""

from hpc_accel.measure.energy.meter import EnergyMeter, Window

__all__ = ["EnergyMeter", "Window"]
