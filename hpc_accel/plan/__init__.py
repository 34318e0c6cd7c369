"""What the machine can do, what each layout would cost on it, and which layouts are worth measuring."""

from hpc_accel.probe.hardware import Hardware, load_hardware

__all__ = ["Hardware", "load_hardware"]
